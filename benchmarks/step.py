"""Time and memory of a training step: SFT, joint with weak frozen, with both trained, with LoRA.

    python benchmarks/step.py                                       # a small Qwen3, on a CPU
    python benchmarks/step.py --shapes 0.6B 1.7B 4B --tokens 16384  # on a GPU

A step is the forward and backward pass of one pack of samples, all of whose tokens count, by the
module that ``wdl fit`` trains, on random branches; clipping and AdamW, once in many packs, are
timed apart. Each row is a fresh process. Seconds are CPU seconds of two threads (on a GPU, of the
clock), the median of the repeats; memory is the peak of all, weights, gradients and moments
included. On a GPU all of these are bfloat16.

FLOPs are those of :mod:`wdl.metrics.flops`. The limit counts passes instead: three forward ones for
a branch that trains, one for one that does not, and two for one of which only an adapter trains,
whose own are not counted. Linux only.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import cast

import torch
from loss import hardware
from transformers import PreTrainedModel, Qwen3Config

from wdl.branches.loading import load_branch
from wdl.branches.lora import Lora, add_adapter
from wdl.config.paths import ModelSource
from wdl.data.batches import Batch, collate_pack
from wdl.metrics.flops import Products, peak_flops
from wdl.training.weak_driven import WeakDrivenModule

SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 16, 512),
    "small": (512, 1536, 8, 8, 8, 64, 4096),
    "0.6B": (1024, 3072, 28, 16, 8, 128, 151_936),
    "1.7B": (2048, 6144, 28, 16, 8, 128, 151_936),
    "4B": (2560, 9728, 36, 32, 8, 128, 151_936),
}
"""Hidden and intermediate size, layers, heads, key heads, size of a head, vocabulary."""
PASSES = {"sft": 3, "frozen": 4, "both": 6, "lora": 3}
"""Forward passes through a branch that a step is worth."""
CUDA = torch.cuda.is_available()
HEADER = """\
| shape | pair | recomputes | step s | × SFT | limit | tokens/s | MFU | peak MiB | AdamW s |
|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    """Measure what the command line asks for and print a row for each."""
    options = parse()
    if options.row:
        print(json.dumps(measure(options, *json.loads(options.row))))
        return
    device = hardware("cuda" if CUDA else "cpu")
    lengths = f"packs of {options.tokens} tokens, samples of {options.sample}"
    print(f"{device}, torch {torch.__version__}, {lengths}\n{HEADER}")
    first: dict[tuple[str, bool], float] = {}
    for shape, pair, recomputes in product(
        options.shapes, options.pairs, [kept == "on" for kept in options.recompute]
    ):
        command = [sys.executable, __file__, *sys.argv[1:]]
        child = subprocess.run(
            [*command, "--row", json.dumps([shape, pair, recomputes])],
            stdout=subprocess.PIPE,
            text=True,
        )
        cells = [shape, pair, "yes" if recomputes else "no"]
        if child.returncode:
            cells += [f"exit code {child.returncode}", *[""] * 6]
        else:
            result = json.loads(child.stdout.splitlines()[-1])
            if pair == "sft":
                first[shape, recomputes] = result["step"]
            sft = first.get((shape, recomputes))
            cells += numbers(result, sft, PASSES[pair] / PASSES["sft"], device)
        print("| " + " | ".join(cells) + " |", flush=True)


def parse() -> argparse.Namespace:
    """The command line; --row is for the processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["small"])
    parser.add_argument("--pairs", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--recompute", nargs="+", choices=["on", "off"], default=["off"])
    parser.add_argument("--tokens", type=int, default=512, help="of a pack")
    parser.add_argument("--sample", type=int, default=512, help="tokens of a sample")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    return parser.parse_args()


def numbers(result: dict[str, float], sft: float | None, limit: float, device: str) -> list[str]:
    """The cells of what was measured; ``sft`` is how long a step of SFT takes, if that is known."""
    peak = peak_flops(device)
    return [
        f"{result['step']:.3f}",
        f"{result['step'] / sft:.3f}" if sft else "",
        f"{limit:.3f}",
        f"{result['tokens'] / result['wall']:,.0f}",
        f"{result['flops'] / result['wall'] / peak:.1%}" if peak else "unknown",
        f"{result['peak'] / 2**20:,.0f}",
        f"{result['update']:.3f}",
    ]


def measure(
    options: argparse.Namespace, shape: str, pair: str, recomputes: bool
) -> dict[str, float]:
    """Seconds of a step and of AdamW, its FLOPs and tokens, and the peak in bytes."""
    torch.set_num_threads(2)
    batch = make_batch(options.tokens, options.sample, SHAPES[shape][-1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    module = make_module(shape, pair, recomputes)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=CUDA)
    steps, walls, updates = [], [], []
    for _ in range(options.repeats + 1):
        start, wall = clock(), time.perf_counter()
        module(batch)[0].backward()
        end = clock()
        walls.append(time.perf_counter() - wall)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        steps.append(end - start)
        updates.append(clock() - end)
    host = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    lengths = [options.sample] * (options.tokens // options.sample)
    return {
        "step": statistics.median(steps[1:]),
        "wall": statistics.median(walls[1:]),
        "update": statistics.median(updates[1:]),
        "tokens": sum(lengths),
        "flops": step_flops(module, lengths),
        "peak": torch.cuda.max_memory_allocated() if CUDA else host,
    }


def step_flops(module: WeakDrivenModule, lengths: list[int]) -> int:
    """Of samples all of whose tokens count, through both branches."""
    counted = sum(length - 1 for length in lengths)
    branches = {n: module.branches[n if n in module.branches else "strong"] for n in module.sources}
    return sum(
        Products.of(cast(PreTrainedModel, branch)).step(lengths, counted, module.trains(name))
        for name, branch in branches.items()
    )


def clock() -> float:
    """Seconds: of the processor, or on a GPU of the clock, when all that was asked is done."""
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def qwen3(shape: tuple[int, ...]) -> Qwen3Config:
    """The configuration of a shape."""
    hidden, intermediate, layers, heads, key_heads, size, vocabulary = shape
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=size,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
    )


def make_module(shape: str, pair: str, recomputes: bool) -> WeakDrivenModule:
    """The module that ``wdl fit`` trains, with random branches."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(qwen3(SHAPES[shape]).to_dict()))
        source = ModelSource(folder)
        module = WeakDrivenModule(
            source,
            None if pair == "sft" else source,
            lam=1.0 if pair == "sft" else 0.5,
            train_weak=pair == "both",
            lora=Lora() if pair == "lora" else None,
        )
        for name in ("strong", "weak") if pair in ("frozen", "both") else ("strong",):
            with torch.device("cuda" if CUDA else "cpu"):
                dtype = torch.bfloat16 if CUDA else torch.float32
                branch = load_branch(folder, dtype, pretrained=False, packed=True)
                if pair == "lora":
                    add_adapter(branch, Lora())
            if name == "weak" and pair == "frozen":
                branch.requires_grad_(False).eval()
            elif recomputes:
                branch.gradient_checkpointing_enable({"use_reentrant": False})
            module.branches[name] = branch
    return module


def make_batch(tokens: int, sample: int, vocabulary: int) -> Batch:
    """One pack of random samples."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (tokens // sample, sample), generator=generator).tolist()
    rows = [{"input_ids": each, "prompt_length": 1} for each in ids]
    batch = collate_pack(rows, range(len(rows)), 0, tokens)  # type: ignore[arg-type]
    for part in (batch, batch["segments"]):
        for name, value in part.items():
            if isinstance(value, torch.Tensor) and CUDA:
                part[name] = value.cuda()  # type: ignore[literal-required]
    return batch


if __name__ == "__main__":
    main()

"""Training steps of the shapes of Qwen3 on a GPU: tokens/s, model FLOP utilisation, peak memory.

    python benchmarks/gpu.py                             # 0.6B, 1.7B and 4B
    python benchmarks/gpu.py --shapes 0.6B --tokens 16384
    python benchmarks/gpu.py --shapes tiny               # on a CPU, to see that it runs

Random weights, bfloat16 with bfloat16 moments of AdamW, packs of samples of about 512 tokens all of
which count, attention by the kernel for packs. A step is the forward and backward pass of one pack;
clipping and AdamW, once in many packs, are timed apart. FLOPs are those of the matrix products and
of causal attention within samples, three times the forward pass for a branch that trains, once for
one that does not; what gradient checkpointing computes twice counts once.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import torch
from loss import PEAK_FLOPS, hardware
from transformers import Qwen3Config

from wdl.branches.loading import load_branch
from wdl.config.paths import ModelSource
from wdl.data.batches import Batch, collate_pack
from wdl.training.weak_driven import WeakDrivenModule

SHAPES = {
    "tiny": (64, 128, 2, 4, 2, 512),
    "0.6B": (1024, 3072, 28, 16, 8, 151_936),
    "1.7B": (2048, 6144, 28, 16, 8, 151_936),
    "4B": (2560, 9728, 36, 32, 8, 151_936),
}
"""Hidden and intermediate size, layers, heads, key heads and vocabulary; heads have 128 values."""
PASSES = {"sft": 3, "frozen": 4, "both": 6}
SAMPLE = 512
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
COLUMNS = "| model | pair | checkpointing | s | tokens/s | MFU | peak GiB | AdamW s |"


def main() -> None:
    """Measure every shape, pair and way to keep activations, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.6B", "1.7B", "4B"])
    parser.add_argument("--pairs", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--tokens", type=int, default=4096, help="of a pack")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{hardware(DEVICE.type)}, torch {torch.__version__}, packs of {arguments.tokens} tokens")
    print(f"{COLUMNS}\n|{'---|' * COLUMNS.count(' | ')}---|")
    for shape, pair, recomputes in product(arguments.shapes, arguments.pairs, (False, True)):
        try:
            cells = row(shape, pair, recomputes, arguments.tokens, arguments.repeats)
        except torch.OutOfMemoryError:
            cells = ["does not fit"]
        kept = "on" if recomputes else "off"
        print("| " + " | ".join([shape, pair, kept, *cells]) + " |", flush=True)
        gc.collect()
        if DEVICE.type == "cuda":
            torch.cuda.empty_cache()


def row(shape: str, pair: str, recomputes: bool, tokens: int, repeats: int) -> list[str]:
    """What is measured of one kind of step."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    module = make_module(shape, pair, recomputes)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=DEVICE.type == "cuda")
    batch = make_batch(tokens, SHAPES[shape][-1])

    def step() -> None:
        module(batch)[0].backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    step()
    update()
    seconds, updates = timed(step, repeats), timed(update, 3)
    operations = PASSES[pair] * forward_flops(SHAPES[shape], batch)
    peak = next((v for name, v in PEAK_FLOPS.items() if name in hardware(DEVICE.type)), None)
    memory = torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None
    return [
        f"{seconds:.3f}",
        f"{tokens / seconds:,.0f}",
        f"{operations / seconds / peak:.1%}" if peak else "unknown",
        f"{memory:.1f}" if memory else "not measured",
        f"{updates:.3f}",
    ]


def timed(run: Callable[[], None], repeats: int) -> float:
    """Median seconds of some runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def make_module(shape: str, pair: str, recomputes: bool) -> WeakDrivenModule:
    """The module that ``wdl fit`` trains, with random branches."""
    hidden, intermediate, layers, heads, key_heads, vocabulary = SHAPES[shape]
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=128,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config.to_dict()))
        source = ModelSource(folder)
        module = WeakDrivenModule(
            source,
            None if pair == "sft" else source,
            lam=1.0 if pair == "sft" else 0.5,
            train_weak=pair == "both",
        )
        for name in module.sources:
            with DEVICE:
                branch = load_branch(folder, torch.bfloat16, pretrained=False, packed=True)
            if name == "weak" and pair == "frozen":
                branch.requires_grad_(False).eval()
            elif recomputes:
                branch.gradient_checkpointing_enable({"use_reentrant": False})
            module.branches[name] = branch
    return module


def make_batch(tokens: int, vocabulary: int) -> Batch:
    """One pack of random samples."""
    generator = torch.Generator().manual_seed(0)
    lengths: list[int] = []
    while (left := tokens - sum(lengths)) > 0:
        length = int(torch.randint(SAMPLE // 2, 3 * SAMPLE // 2, (1,), generator=generator))
        lengths.append(min(length, left))
    samples = [
        {
            "input_ids": torch.randint(vocabulary, (length,), generator=generator).tolist(),
            "prompt_length": 1,
        }
        for length in lengths
    ]
    batch = collate_pack(samples, range(len(samples)), 0, tokens)  # type: ignore[arg-type]
    for part in (batch, batch["segments"]):
        for name, value in part.items():
            if isinstance(value, torch.Tensor):
                part[name] = value.to(DEVICE)  # type: ignore[literal-required]
    return batch


def forward_flops(shape: tuple[int, ...], batch: Batch) -> int:
    """Of the products with weights, 2 each, and of causal attention, 2·2·L²/2 a head value."""
    hidden, intermediate, layers, heads, key_heads, vocabulary = shape
    tokens = batch["input_ids"].numel()
    layer = hidden * 128 * 2 * (heads + key_heads) + 3 * hidden * intermediate
    borders = batch["segments"]["cu_seq_lens_q"].tolist()
    scores = 2 * heads * 128 * sum((b - a) ** 2 for a, b in pairwise(borders))
    counted = int((batch["labels"] >= 0).sum())
    return layers * (2 * layer * tokens + scores) + 2 * hidden * vocabulary * counted


if __name__ == "__main__":
    main()

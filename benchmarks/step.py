"""Time and memory of a training step: SFT, joint with weak frozen, with both trained, with LoRA.

    python benchmarks/step.py
    python benchmarks/step.py --hidden 2560 --layers 16 --tokens 16384 --peak-tflops 989  # H200

A step is forward and backward pass, clipping and AdamW on one batch, by the module that `wdl fit`
trains, on a random Qwen3 in which the backbone dominates. Each variant runs in a fresh process.
Seconds are CPU seconds (on a GPU, wall-clock), the median of the repeats; memory is the peak with
weights, gradients and optimizer state. The limits count floating-point operations: 3 for a forward
and backward pass, 1 for the forward pass of a frozen branch, and 2 for a strong branch of which
only an adapter trains, whose own operations are not counted. Model FLOP utilisation leaves out
attention scores. Linux only.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from wdl.branches.lora import Lora
from wdl.config.paths import ModelSource
from wdl.data.batches import Batch
from wdl.training.weak_driven import WeakDrivenModule

OPERATIONS = {"sft": 3, "frozen": 4, "both": 6, "lora": 3}
"""Passes through a branch, a backward pass being as much as two forward: one for the gradients of
activations, one for those of weights."""
VOCABULARY = 4096


def main() -> None:
    """Measure the variants, each in a process of its own, and print a row for each."""
    arguments = parse()
    if arguments.variant:
        print(json.dumps(measure(arguments)))
        return
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU, 2 threads"
    print(
        f"{device}; hidden {arguments.hidden}, {arguments.layers} layers, vocabulary {VOCABULARY}"
    )
    print(f"{'variant':8} {'seconds':>8} {'tokens/s':>9} {'peak MiB':>9} {'× SFT':>6} {'limit':>6}")
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), arguments)
        baseline = 0.0
        for variant, operations in OPERATIONS.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
            child = subprocess.run(
                [*command, "--model", folder], check=True, stdout=subprocess.PIPE, text=True
            )
            result = json.loads(child.stdout.splitlines()[-1])
            baseline = baseline or result["seconds"]
            print(row(variant, result, baseline, operations, arguments), flush=True)


def parse() -> argparse.Namespace:
    """The command line; --variant and --model are for the processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512, help="tokens of the step, one sequence")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peak-tflops", type=float, help="of this GPU, for its utilisation")
    parser.add_argument("--variant", choices=OPERATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    return parser.parse_args()


def row(
    variant: str, result: dict, baseline: float, operations: int, arguments: argparse.Namespace
) -> str:
    """One line of the table."""
    speed = arguments.tokens / result["wall"]
    columns = (
        f"{variant:8} {result['seconds']:8.3f} {speed:9.0f} {result['peak'] / 2**20:9.0f} "
        f"{result['seconds'] / baseline:6.3f} {operations / 3:6.3f}"
    )
    if arguments.peak_tflops:
        flops = 2 * result["parameters"] * operations * speed
        columns += f"   MFU {flops / arguments.peak_tflops / 1e12:.1%}"
    return columns


def write_model(folder: Path, arguments: argparse.Namespace) -> None:
    """A random Qwen3 with the proportions of the real ones."""
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=arguments.hidden,
        intermediate_size=3 * arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.hidden // 64,
        num_key_value_heads=arguments.hidden // 64,
        head_dim=64,
        max_position_embeddings=arguments.tokens,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak bytes of one variant."""
    torch.set_num_threads(2)
    disable_progress_bar()
    cuda = torch.cuda.is_available()
    torch.set_default_dtype(torch.bfloat16 if cuda else torch.float32)
    source, before = ModelSource(arguments.model), resource.getrusage(resource.RUSAGE_SELF)
    module = WeakDrivenModule(
        source,
        None if arguments.variant == "sft" else source,
        lam=1.0 if arguments.variant == "sft" else 0.5,
        train_weak=arguments.variant == "both",
        lora=Lora() if arguments.variant == "lora" else None,
    )
    module.configure_model()
    module.to("cuda" if cuda else "cpu")
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5)
    batch = make_batch(arguments.tokens, next(module.parameters()).device)
    seconds, walls = [], []
    for _ in range(arguments.repeats + 2):
        cpu_start, start = time.process_time(), time.perf_counter()
        module(batch)[0].backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if cuda:
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - start)
        seconds.append(walls[-1] if cuda else time.process_time() - cpu_start)
    host = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss)
    return {
        "seconds": statistics.median(seconds[2:]),
        "wall": statistics.median(walls[2:]),
        "peak": torch.cuda.max_memory_allocated() if cuda else host,
        "parameters": sum(parameter.numel() for parameter in module.strong.parameters()),
    }


def make_batch(tokens: int, device: torch.device) -> Batch:
    """One random sequence, all of which is completion."""
    ids = torch.randint(VOCABULARY, (1, tokens + 1), device=device)
    return {
        "input_ids": ids[:, :-1],
        "attention_mask": torch.ones(1, tokens, dtype=torch.int64, device=device),
        "labels": ids[:, 1:],
        "sample_ids": torch.zeros(1, dtype=torch.int64),
        "denominator": tokens,
    }


if __name__ == "__main__":
    main()

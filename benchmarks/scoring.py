"""Entropy scoring: time and memory against materialised logits, throughput on whole samples.

    python benchmarks/scoring.py

Each variant runs in a fresh process. Seconds are CPU seconds, in float32 (on a GPU, of the clock,
in bfloat16); memory is the peak beyond weights and inputs. The limit of the first table is the
matrix product alone. The second table scores samples of mixed length with a small random Qwen3 (on
a GPU, of the shape of 0.6B): ours forms batches by length and makes logits for answers only; the
alternatives make logits for every position, of samples padded to 4,096 tokens or one by one
without padding. Linux only.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would count as CPU seconds

import argparse
import ctypes
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from loss import hardware
from step import CUDA, SHAPES, clock, qwen3
from torch import Tensor
from transformers import PreTrainedModel, Qwen3ForCausalLM

from wdl.data.batches import collate
from wdl.data.encoding import Encoded
from wdl.data.score_store import score_batches
from wdl.data.scoring import sample_entropies
from wdl.losses.entropy import token_entropy

VOCABULARY, HIDDEN, TOKENS = 151_936, 1024, 2048
PRODUCT_COLUMNS = 8192
DEVICE, DTYPE = ("cuda", torch.bfloat16) if CUDA else ("cpu", torch.float32)
SMALL_VOCABULARY = VOCABULARY if CUDA else 32_768
PADDED = 4096
SAMPLES = 512 if CUDA else 64
PADDED_SAMPLES = 4


def materialised(hidden: Tensor, head: Tensor) -> Tensor:
    """The usual way: all logits, their softmax, its logarithm."""
    p = torch.softmax((hidden @ head.T).float(), dim=-1)
    return -(p * torch.log(p + 1e-12)).sum(dim=-1)


def products(hidden: Tensor, head: Tensor) -> Tensor:
    """The matrix product alone, a tile of the vocabulary at a time, which is fastest."""
    buffer = hidden.new_empty(len(hidden), PRODUCT_COLUMNS)
    for tile in head.split(PRODUCT_COLUMNS):
        torch.mm(hidden, tile.T, out=buffer[:, : len(tile)])
    return buffer[:, 0]


WAYS = {"ours": token_entropy, "materialised": materialised, "product": products}


def peak() -> int:
    """Most memory so far, in bytes: of the GPU, or resident."""
    if CUDA:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_head(way: str, repeats: int) -> dict[str, float]:
    """Seconds (best of some) and peak extra bytes of one way on random operands."""
    torch.manual_seed(0)
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: large freed memory is given back
    libc.mallopt(-1, 1 << 26)  # M_TRIM_THRESHOLD: small freed memory is not, as by default
    with torch.no_grad():
        hidden = torch.randn(TOKENS, HIDDEN, device=DEVICE, dtype=DTYPE)
        head = torch.randn(VOCABULARY, HIDDEN, device=DEVICE, dtype=DTYPE).mul_(0.05)
        WAYS[way](hidden[:2], head[:64])
        before = peak()
        seconds = []
        for _ in range(repeats):
            start = clock()
            WAYS[way](hidden, head)
            seconds.append(clock() - start)
    return {"seconds": min(seconds), "extra": peak() - before}


def head_table(repeats: int) -> None:
    """Print the comparison of one head over many tokens."""
    results = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--repeats", str(repeats)]
        results[way] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    ours, naive = results["ours"], results["materialised"]
    print(f"{hardware(DEVICE)}, torch {torch.__version__}, {DTYPE}")
    print(f"V={VOCABULARY}, H={HIDDEN}, {TOKENS} tokens\n")
    print("| way | s | extra MiB | × ours s | × ours MiB |\n|---|---|---|---|---|")
    for way, found in results.items():
        time_ratio, memory_ratio = (found[key] / ours[key] for key in ("seconds", "extra"))
        print(
            f"| {way} | {found['seconds']:.3g} | {found['extra'] / 2**20:.0f} "
            f"| {time_ratio:.2f} | {memory_ratio:.2f} |"
        )
    faster, most = (naive["seconds"] / results[way]["seconds"] for way in ("ours", "product"))
    smaller = naive["extra"] / ours["extra"]
    print(
        f"\n{faster:.2f} × as fast as materialised (at least 1.8; the product alone would be "
        f"{most:.2f} ×), 1/{smaller:.1f} of the memory\n"
    )


def small_model() -> PreTrainedModel:
    """A random Qwen3 that a CPU runs in no time; for a GPU, one of the shape of 0.6B."""
    torch.manual_seed(0)
    config = qwen3(SHAPES["0.6B"] if CUDA else (256, 768, 4, 4, 2, 64, SMALL_VOCABULARY))
    with torch.device(DEVICE):
        model = Qwen3ForCausalLM._from_config(config, dtype=DTYPE)
    return model.eval()


def mixed_samples(count: int) -> list[Encoded]:
    """Samples with lengths like those of GSM8K: prompts of 77 tokens, answers of 87 on average."""
    rng = np.random.default_rng(0)
    prompts, answers = rng.poisson(77, count), rng.gamma(10, 8.7, count).astype(int) + 1
    return [
        {"input_ids": rng.integers(SMALL_VOCABULARY, size=p + a).tolist(), "prompt_length": int(p)}
        for p, a in zip(prompts, answers, strict=True)
    ]


@torch.no_grad()
def score_ours(model: PreTrainedModel, samples: list[Encoded]) -> None:
    """Batches by length, logits where they count."""
    for batch in score_batches([len(sample["input_ids"]) for sample in samples]):
        rows = [samples[position] for position in batch]
        inputs = move_data_to_device(dict(collate(rows, batch, 0, 1)), model.device)
        sample_entropies(model, inputs)


@torch.no_grad()
def score_all_positions(width: int, model: PreTrainedModel, samples: list[Encoded]) -> None:
    """One by one, padded to ``width`` (0: not at all), logits for every position."""
    for sample in samples:
        ids = torch.tensor([sample["input_ids"]], device=model.device)
        ids = torch.nn.functional.pad(ids, (0, max(0, width - ids.shape[1])))
        logits = model(input_ids=ids, attention_mask=(ids > 0).long(), use_cache=False).logits[0]
        p = torch.softmax(logits.float(), dim=-1)
        (-(p * torch.log(p + 1e-12)).sum(dim=-1))[sample["prompt_length"] - 1 :].mean()


def sample_table() -> None:
    """Print the throughput on whole samples."""
    model, samples = small_model(), mixed_samples(SAMPLES)
    ways: dict[str, tuple[Callable[[PreTrainedModel, list[Encoded]], None], int]] = {
        "ours": (score_ours, SAMPLES),
        f"padded to {PADDED}": (partial(score_all_positions, PADDED), PADDED_SAMPLES),
        "one by one": (partial(score_all_positions, 0), SAMPLES),
    }
    print("| way | samples/s | tokens/s | ours × |\n|---|---|---|---|")
    rates: list[float] = []
    for name, (way, count) in ways.items():
        way(model, samples[:2])
        start = clock()
        way(model, samples[:count])
        seconds = clock() - start
        tokens = sum(len(sample["input_ids"]) for sample in samples[:count])
        rates.append(count / seconds)
        speeds = f"{rates[-1]:.1f} | {tokens / seconds:,.0f} | {rates[0] / rates[-1]:.1f}"
        print(f"| {name} | {speeds} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure_head(options.way, options.repeats)))
    else:
        head_table(options.repeats)
        sample_table()


if __name__ == "__main__":
    main()

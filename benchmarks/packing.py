"""Padding against packing: how many tokens are real, and how many of them train per second.

    python benchmarks/packing.py --lengths gsm8k_test.json

Efficiency is real tokens over the tokens that the forward passes have room for. Throughput is that
of a small random Qwen3 with the mixed loss's fused head, forward and backward, in real tokens per
CPU second. ``--lengths`` takes instruction data whose lengths (words × 1.4) are used; without it
they are drawn like those of GSM8K.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would count as CPU seconds

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from wdl.branches.reading import hidden_states, output_head
from wdl.data.batches import Batch, collate, collate_pack
from wdl.data.encoding import Encoded
from wdl.data.packing import pack
from wdl.data.plan import Plan
from wdl.data.records import RecordReader
from wdl.losses.mixed_loss import mixed_linear_cross_entropy

VOCABULARY = 32_768
MAX_TOKENS = 4096
GROUP = 8
TEMPLATE_TOKENS, TOKENS_PER_WORD = 14, 1.4
TRAINED = 64
STEP = 256

Parts = list[list[int]]


def read_lengths(file: Path | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens of prompts and of completions."""
    if file is None:
        rng = np.random.default_rng(0)
        return rng.poisson(77, 1319), rng.gamma(10, 8.7, 1319).astype(np.int64) + 1
    records = [record for _, record in RecordReader([file])]
    prompts = [len(record["messages"][-1]["content"].split()) for record in records]
    answers = [len(record["completion"].split()) for record in records]
    prompt, answer = (np.ceil(np.array(words) * TOKENS_PER_WORD) for words in (prompts, answers))
    return (prompt + TEMPLATE_TOKENS).astype(np.int64), answer.astype(np.int64)


def groups(order: NDArray[np.int64]) -> Parts:
    """Eight at a time."""
    return [order[first : first + GROUP].tolist() for first in range(0, len(order), GROUP)]


def by_length(lengths: NDArray[np.int64]) -> Parts:
    """Like lengths together, as the plan does it."""
    plan = Plan(np.arange(len(lengths)), lengths, lengths, STEP, GROUP, seed=0)
    return [list(part.samples) for step in plan.epoch(0) for part in step if part.samples]


def efficiency_table(lengths: NDArray[np.int64]) -> None:
    """Print how full the forward passes are."""
    order = np.random.default_rng(0).permutation(len(lengths))
    padded = {
        "random 8, padded": groups(order),
        "like lengths 8, padded": by_length(lengths),
    }
    rows = [
        (name, len(parts), sum(len(part) * int(lengths[part].max()) for part in parts))
        for name, parts in padded.items()
    ]
    packs = pack(lengths, MAX_TOKENS)
    rows.append((f"packed to {MAX_TOKENS}", len(packs), len(packs) * MAX_TOKENS))
    rows.append(("random 8, padding-free", len(groups(order)), int(lengths.sum())))
    print("| batches | forward passes | efficiency |\n|---|---|---|")
    for name, passes, room in rows:
        print(f"| {name} | {passes} | {lengths.sum() / room:.4f} |")


def model() -> PreTrainedModel:
    """A small random Qwen3."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            tie_word_embeddings=True,
        )
    )


def train(branch: PreTrainedModel, batches: list[Batch]) -> float:
    """CPU seconds of forward and backward over all batches."""
    head = output_head(branch).weight
    start = time.process_time()
    for batch in batches:
        states = hidden_states(
            branch, batch["input_ids"], batch["attention_mask"], batch.get("segments")
        )
        labels = batch["labels"].flatten()
        loss = mixed_linear_cross_entropy(
            states.flatten(0, 1), head, None, None, labels, 1.0, denominator=1
        )
        loss.backward()
    return time.process_time() - start


def throughput_table(prompts: NDArray[np.int64], answers: NDArray[np.int64], repeats: int) -> None:
    """Print real tokens per CPU second."""
    lengths = (prompts + answers)[:TRAINED]
    rng = np.random.default_rng(0)
    samples: list[Encoded] = [
        {"input_ids": rng.integers(VOCABULARY, size=n).tolist(), "prompt_length": int(p)}
        for n, p in zip(lengths, prompts, strict=False)
    ]
    order = rng.permutation(len(lengths))
    ways = {
        "random 8, padded": (collate, groups(order)),
        "like lengths 8, padded": (collate, by_length(lengths)),
        "random 8, padding-free": (collate_pack, groups(order)),
        f"packed to {MAX_TOKENS}": (collate_pack, pack(lengths, MAX_TOKENS)),
    }
    batches = {
        name: [put([samples[i] for i in part], part, 0, 1) for part in parts]
        for name, (put, parts) in ways.items()
    }
    branches = {name: model() for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(
        repeats + 1
    ):  # in turn, so that a busy moment hits all alike; the first warms up
        for name in ways:
            seconds[name].append(train(branches[name], batches[name]))
    rates = {n: lengths.sum() / statistics.median(times[1:]) for n, times in seconds.items()}
    base = rates["random 8, padded"]
    print("\n| batches | real tokens per CPU s | × random padded |\n|---|---|---|")
    for name, rate in rates.items():
        print(f"| {name} | {rate:.0f} | {rate / base:.2f} |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    prompts, answers = read_lengths(options.lengths)
    efficiency_table(prompts + answers)
    throughput_table(prompts, answers, options.repeats)


if __name__ == "__main__":
    main()

"""Greedy answers of the embedded model: our decoding, `generate` of transformers, and the limit.

    python benchmarks/generation.py

Each decodes the same batches. The held-out problems have answers of nearly one length; word
problems, which the model has never seen, have answers of all lengths up to the limit of tokens,
and there it pays that ended answers leave a batch. The limit is the linear layers' arithmetic for
the tokens that were written, at the speed of a matrix product of that shape. Seconds are CPU
seconds.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads would count as CPU seconds

import time
from pathlib import Path

import torch
from transformers import GenerationConfig

from wdl.generation.engine import Request, Sampling
from wdl.generation.protocols import PROTOCOLS
from wdl.generation.transformers_engine import MAX_ROWS, TransformersEngine, plan_batches
from wdl.questions.benchmarks import BENCHMARKS
from wdl.questions.problems import Problem, load_problems

TINY = Path(__file__).parents[1] / "configs" / "tiny"
QUICK = PROTOCOLS["quick"]


def ours(engine: TransformersEngine, requests: list[Request], sampling: Sampling) -> int:
    """Generate, and count the tokens."""
    return sum(g.new_tokens for part in engine.generate(requests, sampling) for g in part)


@torch.inference_mode()
def theirs(engine: TransformersEngine, requests: list[Request], sampling: Sampling) -> None:
    """``generate`` on the same batches."""
    config = GenerationConfig(
        max_new_tokens=sampling.max_new_tokens,
        do_sample=False,
        eos_token_id=list(engine.stop_tokens),
        pad_token_id=0,
    )
    for batch in plan_batches(engine.prompts(requests, sampling), sampling.max_new_tokens):
        width = max(len(prompt.tokens) for prompt in batch)
        prompts = [[0] * (width - len(p.tokens)) + p.tokens for p in batch]
        mask = [[0] * (width - len(p.tokens)) + [1] * len(p.tokens) for p in batch]
        engine.model.generate(  # type: ignore[operator]
            torch.tensor(prompts), attention_mask=torch.tensor(mask), generation_config=config
        )


def limit(engine: TransformersEngine, tokens: int) -> float:
    """Seconds for the linear layers of ``tokens`` tokens, MAX_ROWS at a time."""
    layers = [m for m in engine.model.modules() if isinstance(m, torch.nn.Linear)]
    weights = [layer.weight.detach() for layer in layers]
    inputs = [torch.randn(MAX_ROWS, weight.shape[1]) for weight in weights]
    steps = 50
    began = time.process_time()
    for _ in range(steps):
        for weight, rows in zip(weights, inputs, strict=True):
            rows @ weight.T
    return (time.process_time() - began) / (steps * MAX_ROWS) * tokens


def word_problems(count: int) -> list[Problem]:
    """Questions unlike those of the training."""
    text = "Tom has {} boxes with {} pens in each. He gives {} pens away. How many are left?"
    numbers = ((n, text.format(11 + 7 * n % 89, 12 + 5 * n % 83, 3 + n)) for n in range(count))
    return [Problem(str(n), question, "0") for n, question in numbers]


def main() -> None:
    """Measure and print the table."""
    engine = TransformersEngine(str(TINY / "strong"))
    sampling = QUICK.sampling("arithmetic")
    heldout = load_problems(BENCHMARKS["arithmetic"], TINY / "heldout.jsonl")
    print(f"{'CPU seconds':24}{'tokens':>8}{'ours':>8}{'generate':>10}{'limit':>8}{'ratio':>8}")
    for name, problems in (
        ("500 held-out problems", heldout),
        ("128 word problems", word_problems(128)),
    ):
        requests = QUICK.requests(problems)
        ours(engine, requests[:8], sampling)
        began = time.process_time()
        tokens = ours(engine, requests, sampling)
        between = time.process_time()
        theirs(engine, requests, sampling)
        us, them = between - began, time.process_time() - between
        bound = limit(engine, tokens)
        print(f"{name:24}{tokens:8}{us:8.1f}{them:10.1f}{bound:8.1f}{them / us:8.2f}")


if __name__ == "__main__":
    main()

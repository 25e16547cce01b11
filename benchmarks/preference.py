"""Time and memory of the preference loss: against materialised logits, pair by pair, and TRL.

    python benchmarks/preference.py                        # the cells that have a bar
    python benchmarks/preference.py --trl .venv-trl/bin/python
    python benchmarks/preference.py --only loss --tokens 2048 --dtype bfloat16 --liger

Each variant is a fresh process. Seconds are CPU seconds of two threads (on a GPU, seconds between
events), the median of the repeats; memory is the peak beyond weights and inputs.

- loss: the loss and its gradients on random states, V = 151,936, H = 1,024, of answers of 64 to 256
  tokens, in pairs, or eight to a question of which three are right; a question exceeds the default
  chunk and is passed twice, but not with room of 1 GiB. With --liger also Liger's, for which the
  answers of pairs are padded to the longest.
- question: forward and backward pass of a small Qwen3 on such a question, its eight answers at
  once, and on its 15 pairs one after the other, each through the same loss.
- trl: an epoch of AdamW on the same text and the same Qwen3 by TRL's DPOTrainer, under an
  interpreter that has TRL, and by a plain loop over our loss; seconds are those of one pair. The
  reference's log-probabilities are made in the step by a frozen copy, or beforehand, untimed.

Linux only.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from loss import HIDDEN, VOCABULARY, Measurement, Run, hardware, measure_cpu, measure_cuda
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from wdl.constants import IGNORE_INDEX
from wdl.losses.preference import Preference, linear_preference_loss, sequence_logps

REPOSITORY = Path(__file__).parents[1]
OBJECTIVE = Preference()
ANSWERS, RIGHT = 8, 3
QUESTION = [(c, r) for c in range(RIGHT) for r in range(RIGHT, ANSWERS)]
"""The pairs of a question whose first answers are right."""
PROMPT, ANSWER = 64, 128
"""Characters of a prompt and of an answer of text, which are as many tokens."""
QUESTIONS, PAIRS, STEP = 4, 32, 8
"""Questions of an epoch, one to a step; pairs of an epoch in which each has its own question, and
of a step."""


def main() -> None:
    """Measure what the command line asks for and print its tables."""
    options = parse()
    if options.variant:
        print(json.dumps(asdict(measure(options))))
        return
    print(f"{hardware(options.device)}, torch {torch.__version__}, {options.dtype}")
    if options.only in (None, "loss"):
        print(f"{options.tokens} tokens, V={VOCABULARY}, H={HIDDEN}")
        ours = [f"loss/ours/{each}" for each in ("pairs", "questions", f"questions/{2**30}")]
        liger = ["loss/liger/pairs"] if options.liger else []
        report(options, ["loss/naive/pairs", *ours, *liger])
    if options.only in (None, "question"):
        report(options, ["question/pairs", "question/once"])
    if options.trl and options.only in (None, "trl"):
        for layout, pairs in (("pairs", PAIRS), ("questions", QUESTIONS * len(QUESTION))):
            for reference in ("step", "before"):
                end = f"{layout}/{reference}"
                report(options, [f"trl/trl/{end}", f"trl/ours/{end}"], pairs)


def parse() -> argparse.Namespace:
    """The command line; --variant is for the processes that measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=["loss", "question", "trl"])
    parser.add_argument("--tokens", type=int, default=4096, help="of the loss alone, all counted")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--liger", action="store_true", help="where liger-kernel is installed")
    parser.add_argument("--trl", metavar="PYTHON", help="an interpreter that has TRL")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    return parser.parse_args()


def report(options: argparse.Namespace, variants: list[str], pairs: int = 1) -> None:
    """A line for each variant, with its ratios to the first."""
    print("| | s | × time | extra MiB | × memory |\n|---|---|---|---|---|")
    first = None
    for variant in variants:
        result = measure_apart(options, variant)
        first = first or result
        print(
            f"| {variant} | {result.seconds / pairs:.3f} | {result.seconds / first.seconds:.3f} "
            f"| {result.extra >> 20:,} | {result.extra / first.extra:.3f} |",
            flush=True,
        )


def measure_apart(options: argparse.Namespace, variant: str) -> Measurement:
    """Measure a variant in a process of its own, whose peak memory nothing else has touched."""
    # threads that wait for each other by spinning would count as CPU seconds on a busy machine
    threads = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
    environment = os.environ | threads | {"PYTHONPATH": str(REPOSITORY)}
    python = options.trl if variant.startswith("trl/trl/") else sys.executable
    command = [python, __file__, *sys.argv[1:], "--variant", variant]
    child = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return Measurement(**json.loads(child.stdout.splitlines()[-1]))


def measure(options: argparse.Namespace) -> Measurement:
    """Median seconds, fastest wall time and largest peak of a variant's runs."""
    section, *rest = options.variant.split("/")
    with tempfile.TemporaryDirectory() as folder:
        run = SECTIONS[section](options, Path(folder), *rest)
        once = measure_cuda if options.device == "cuda" else measure_cpu
        results = [once(run) for _ in range(options.repeats)]
    return Measurement(
        statistics.median(result.seconds for result in results),
        min(result.wall for result in results),
        max(result.extra for result in results),
    )


# the loss alone


def loss_run(
    options: argparse.Namespace, folder: Path, who: str, layout: str, chunk_bytes: str = "0"
) -> Run:
    """Loss and gradients on random states of pairs, or of questions."""
    torch.manual_seed(0)
    answers, own = (2, [(0, 1)]) if layout == "pairs" else (ANSWERS, QUESTION)
    groups = max(1, round(options.tokens / (160 * answers)))
    drawn = random.Random(0).choices(range(64, 257), k=groups * answers)
    ends = [options.tokens * end // sum(drawn) for end in accumulate(drawn, initial=0)]
    lengths = [end - start for start, end in pairwise(ends)]
    rows = Rows(
        lengths, [(g * answers + c, g * answers + r) for g in range(groups) for c, r in own]
    )
    dtype = getattr(torch, options.dtype)
    hidden = torch.randn(options.tokens, HIDDEN, device=options.device, dtype=dtype)
    head = torch.randn(VOCABULARY, HIDDEN, device=options.device, dtype=dtype).div_(32)
    labels = torch.randint(0, VOCABULARY, (options.tokens,), device=options.device)
    for tensor in (hidden, head):
        tensor.requires_grad_()

    def run() -> None:
        if who == "ours":
            loss = fused(hidden, head, labels, rows, chunk_bytes=int(chunk_bytes) or None)
        elif who == "liger":
            loss = liger(hidden, head, labels, rows)
        else:
            loss = materialised(hidden, head, labels, rows)
        loss.backward()
        hidden.grad = head.grad = None

    return run


@dataclass
class Rows:
    """Sequences of a batch.

    Attributes:
        lengths: Counted tokens of each.
        pairs: Chosen and rejected sequence of each pair.
    """

    lengths: list[int]
    pairs: list[tuple[int, int]]


def fused(
    hidden: Tensor,
    head: Tensor,
    labels: Tensor,
    rows: Rows,
    reference: list[float] | None = None,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Ours."""
    chosen, rejected = map(list, zip(*rows.pairs, strict=True))
    return linear_preference_loss(
        hidden,
        head,
        labels,
        rows.lengths,
        chosen,
        rejected,
        [1.0] * len(chosen),
        reference or [0.0] * len(rows.lengths),
        OBJECTIVE,
        denominator=len(chosen),
        chunk_bytes=chunk_bytes,
    ).loss


def materialised(hidden: Tensor, head: Tensor, labels: Tensor, rows: Rows) -> Tensor:
    """DPO on all logits, made float32."""
    logps = (hidden @ head.T).float().log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    sums = torch.stack([each.sum() for each in logps.split(rows.lengths)])
    chosen, rejected = map(list, zip(*rows.pairs, strict=True))
    return -F.logsigmoid(OBJECTIVE.beta * (sums[chosen] - sums[rejected])).mean()


def liger(hidden: Tensor, head: Tensor, labels: Tensor, rows: Rows) -> Tensor:
    """Liger's fused DPO without a reference; all chosen answers first, padded."""
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    order = [member for members in zip(*rows.pairs, strict=True) for member in members]
    states, targets = hidden.split(rows.lengths), labels.split(rows.lengths)
    padded = pad_sequence([states[i] for i in order], batch_first=True)
    wanted = pad_sequence([targets[i] for i in order], batch_first=True, padding_value=IGNORE_INDEX)
    loss = LigerFusedLinearDPOLoss(IGNORE_INDEX, OBJECTIVE.beta, use_ref_model=False)
    return loss(head, padded, wanted)[0]


# a question


def question_run(options: argparse.Namespace, folder: Path, way: str) -> Run:
    """Forward and backward pass over a question's answers, or over its pairs."""
    model = small_model(options)
    ids = torch.randint(1000, (ANSWERS, PROMPT + ANSWER), device=options.device)
    batches = [(list(range(ANSWERS)), QUESTION)]
    if way == "pairs":
        batches = [([c, r], [(0, 1)]) for c, r in QUESTION]

    def run() -> None:
        for members, pairs in batches:
            answers = [(ids[i, :PROMPT].tolist(), ids[i, PROMPT:].tolist()) for i in members]
            hidden, labels, lengths = states(model, answers)
            fused(hidden, model.lm_head.weight, labels, Rows(lengths, pairs)).backward()
        model.zero_grad()

    return run


def small_model(options: argparse.Namespace) -> Qwen3ForCausalLM:
    """A random Qwen3 of 11.5 million parameters, tied as the small ones are."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32_768,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config).train()
    return model.to(options.device, getattr(torch, options.dtype))


def states(
    model: Qwen3ForCausalLM, answers: list[tuple[list[int], list[int]]]
) -> tuple[Tensor, Tensor, list[int]]:
    """Final hidden states [N, H] of prompts and answers, labels [N], and counted tokens."""
    longest = max(len(prompt) + len(answer) for prompt, answer in answers)
    ids = torch.zeros(len(answers), longest, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE_INDEX)
    for i, (prompt, answer) in enumerate(answers):
        both = torch.tensor(prompt + answer)
        ids[i, : len(both)], mask[i, : len(both)] = both, 1
        labels[i, len(prompt) - 1 : len(both) - 1] = both[len(prompt) :]
    device = model.lm_head.weight.device
    output = model.model(ids.to(device), attention_mask=mask.to(device), use_cache=False)
    lengths = [len(answer) for _, answer in answers]
    return output.last_hidden_state.flatten(0, 1), labels.flatten().to(device), lengths


# training beside TRL

Question = tuple[str, list[str], list[tuple[int, int]]]
"""Prompt, answers, and its pairs of them."""


def training_run(
    options: argparse.Namespace, folder: Path, who: str, layout: str, reference: str
) -> Run:
    """An epoch of training."""
    make = trl_run if who == "trl" else our_run
    tokenizer = AutoTokenizer.from_pretrained(REPOSITORY / "configs/tiny/strong")
    return make(options, folder, texts(layout), tokenizer, reference == "before")


def texts(layout: str) -> list[Question]:
    """The questions of an epoch."""
    digits = random.Random(0)

    def text(length: int) -> str:
        return "".join(digits.choices("0123456789", k=length))

    pairs = layout == "pairs"
    count, answers, own = (PAIRS, 2, [(0, 1)]) if pairs else (QUESTIONS, ANSWERS, QUESTION)
    return [(text(PROMPT), [text(ANSWER - 1) for _ in range(answers)], own) for _ in range(count)]


def our_run(
    options: argparse.Namespace,
    folder: Path,
    questions: list[Question],
    tokenizer: Any,
    known: bool,
) -> Run:
    """An epoch by a plain loop, each answer once in its step."""
    model, before = small_model(options), small_model(options)

    @torch.no_grad()
    def logps(answers: list[tuple[list[int], list[int]]]) -> list[float]:
        hidden, labels, lengths = states(before, answers)
        return sequence_logps(hidden, before.lm_head.weight, labels, lengths).tolist()

    steps = []
    size = STEP if len(questions) == PAIRS else 1
    for start in range(0, len(questions), size):
        answers: list[tuple[list[int], list[int]]] = []
        pairs = []
        for prompt, texts, own in questions[start : start + size]:
            pairs += [(len(answers) + c, len(answers) + r) for c, r in own]
            ids = [tokenizer(text + tokenizer.eos_token)["input_ids"] for text in texts]
            answers += [(tokenizer(prompt)["input_ids"], each) for each in ids]
        steps.append((answers, pairs, logps(answers) if known else None))

    def run() -> None:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        for answers, pairs, reference in steps:
            hidden, labels, lengths = states(model, answers)
            rows, head = Rows(lengths, pairs), model.lm_head.weight
            fused(hidden, head, labels, rows, reference=reference or logps(answers)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def trl_run(
    options: argparse.Namespace,
    folder: Path,
    questions: list[Question],
    tokenizer: Any,
    known: bool,
) -> Run:
    """An epoch by TRL's DPOTrainer, each pair a row, as many pairs in a step as ours."""
    from datasets import Dataset  # found under TRL's interpreter only
    from trl import DPOConfig, DPOTrainer

    arguments = DPOConfig(
        output_dir=str(folder),
        use_cpu=options.device == "cpu",
        bf16=False,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        num_train_epochs=1,
        per_device_train_batch_size=STEP if len(questions) == PAIRS else len(QUESTION),
        gradient_checkpointing=False,
        optim="adamw_torch",
        learning_rate=1e-6,
        precompute_ref_log_probs=known,
        beta=OBJECTIVE.beta,
    )
    rows = [
        {"prompt": prompt, "chosen": answers[c], "rejected": answers[r]}
        for prompt, answers, pairs in questions
        for c, r in pairs
    ]
    trainer = DPOTrainer(
        small_model(options),
        None if known else small_model(options),
        arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )

    def run() -> None:
        trainer.train()

    return run


SECTIONS: dict[str, Callable[..., Run]] = {
    "loss": loss_run,
    "question": question_run,
    "trl": training_run,
}


if __name__ == "__main__":
    disable_progress_bar()
    main()

"""``wdl pairs``: right and wrong attempts at the same questions, to train a preference with.

    wdl pairs --graded round-1/graded.jsonl,round-2/graded.jsonl --out round-2/pairs

writes

    OUT/train.parquet        {"prompt": [messages], "chosen": [texts], "rejected": [texts]}
    OUT/validation.parquet   the same of other questions
    OUT/description.json     how many, how long, from what

A row is a question with all its right and wrong attempts, each text once; its pairs are each right
one with each wrong one. A question is one question whichever rounds asked it, and always on the
same side of the split. Attempts that a model cannot be trained on as they are, above all those that
were cut off, make no pairs. All of it is a pure function of the graded files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from wdl.config.paths import InputPaths
from wdl.errors import UserError
from wdl.rounds.attempts import Attempt, by_question, read_attempts, shares_of, statistics
from wdl.rounds.output import Output, read_summary, summary_of, write_table
from wdl.system.digests import files_digest, lot
from wdl.system.outcome import leave_outcome

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema([("prompt", pa.list_(MESSAGE)), ("chosen", TEXTS), ("rejected", TEXTS)])


@dataclass(frozen=True)
class Sides:
    """A question with its right and wrong attempts, none with the same text as another."""

    right: list[Attempt]
    wrong: list[Attempt]

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self.right) * len(self.wrong)

    @property
    def size(self) -> int:
        """How many attempts there are."""
        return len(self.right) + len(self.wrong)

    def capped(self, most: int | None, seed: int) -> "Sides":
        """With at most so many pairs: the longer side loses attempts by lot."""
        if most is None or self.pairs <= most:
            return self
        right, wrong = (
            sorted(side, key=lambda one: lot(seed, one.id, one.completion))
            for side in (self.right, self.wrong)
        )
        while len(right) * len(wrong) > most:
            max(right, wrong, key=len).pop()
        return Sides(right, wrong)

    def row(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "prompt": self.right[0].messages,
            "chosen": [attempt.completion for attempt in self.right],
            "rejected": [attempt.completion for attempt in self.wrong],
        }


def pairs(
    graded: InputPaths,
    out: str,
    val_fraction: float = 0.1,
    max_pairs: int | None = None,
    seed: int = 42,
) -> None:
    """Put right and wrong attempts at the same questions together.

    Args:
        graded: Files that `wdl grade` wrote, of all rounds so far, separated by commas.
        out: Folder to write to.
        val_fraction: Share of the questions to validate on, about, drawn by their hash.
        max_pairs: Most pairs of one question; some of its attempts are left out by lot. By default
            there is no limit.
        seed: Seeds that lot.
    """
    faults = {
        f"--val_fraction {val_fraction}: it lies in [0, 1)": not 0 <= val_fraction < 1,
        f"--max_pairs {max_pairs}: it is at least 1": max_pairs is not None and max_pairs < 1,
    }
    if found := [text for text, wrong in faults.items() if wrong]:
        raise UserError(*found)
    rounds = read_attempts(graded.paths, graded=True)
    folder = Path(out)
    key = {
        "graded_sha256": [files_digest([file]) for file in graded.paths],
        "val_fraction": val_fraction,
        "max_pairs": max_pairs,
        "seed": seed,
    }
    output = Output(folder / "train.parquet", key, folder / "description.json")
    description = output.earlier()
    if description is None:
        every = [attempt for attempts in rounds for attempt in attempts]
        sides = {name: both_sides(group) for name, group in by_question(every).items()}
        kept = {name: one.capped(max_pairs, seed) for name, one in sides.items() if one.pairs}
        parts: dict[str, list[Sides]] = {"train": [], "validation": []}
        for name, one in kept.items():
            held_out = lot("split", name) < val_fraction
            parts["validation" if held_out else "train"].append(one)
        if not parts["train"]:
            raise UserError(
                f"--graded {graded}: no question has both a right and a wrong attempt to train on; "
                "sample more attempts, or at a higher temperature"
            )
        description = {
            "model_sha256": [
                read_summary(summary_of(file)).get("model_sha256") for file in graded.paths
            ],
            **{name: _amounts(part) for name, part in parts.items()},
            "attempts": statistics(every) | {"in_pairs": sum(one.size for one in kept.values())},
        }
        output.write_summary(description)
        for name in ("validation", "train"):
            rows = [one.row() for one in parts[name]]
            write_table(folder / f"{name}.parquet", rows, SCHEMA)
    amounts = {name: description[name] for name in ("train", "validation")}
    for name, found in amounts.items():
        print(f"{folder / name}.parquet: {found['questions']} questions, {found['pairs']} pairs")
    leave_outcome(
        {
            f"{name} {unit}": found[unit]
            for name, found in amounts.items()
            for unit in ("questions", "pairs")
        },
        shares_of(description["attempts"]),
    )


def both_sides(attempts: Sequence[Attempt]) -> Sides:
    """The right and the wrong attempts at a question that a model can be trained on.

    A text that one judge held to be right and another wrong is neither.

    Raises:
        UserError: They were not all asked by the same messages.
    """
    first = attempts[0]
    if other := next((one for one in attempts if one.messages != first.messages), None):
        raise UserError(
            f"--graded: question {first.id} was asked by {first.messages}, and in another round by "
            f"{other.messages}; give rounds of one system prompt"
        )
    right, wrong = (
        {one.completion: one for one in reversed(attempts) if one.verdict == verdict}
        for verdict in ("right", "wrong")
    )
    return Sides(
        [one for text, one in reversed(right.items()) if one.is_whole and text not in wrong],
        [one for text, one in reversed(wrong.items()) if one.is_whole and text not in right],
    )


def _amounts(part: Sequence[Sides]) -> dict[str, float]:
    """Numbers of one side of the split, and mean lengths in generated tokens."""
    sides = {
        "chosen": [one.new_tokens for sides in part for one in sides.right],
        "rejected": [one.new_tokens for sides in part for one in sides.wrong],
    }
    return {
        "questions": len(part),
        "pairs": sum(sides.pairs for sides in part),
        **{name: len(tokens) for name, tokens in sides.items()},
        **{f"{name}_tokens": fmean(tokens) for name, tokens in sides.items() if tokens},
    }

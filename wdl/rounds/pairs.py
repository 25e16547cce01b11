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
from pathlib import Path
from statistics import fmean

import pyarrow as pa

from wdl.config.paths import InputPaths
from wdl.errors import UserError
from wdl.rounds.attempts import by_question, read_graded, statistics
from wdl.rounds.output import MESSAGES, Output, read_summary, summary_of, with_images_from
from wdl.rounds.sides import (
    Sides,
    balanced,
    both_sides,
    right_in_both_orders,
    told_contradictory,
    told_one_order,
)
from wdl.system.digests import lot
from wdl.system.outcome import leave_outcome

TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema([("prompt", MESSAGES), ("chosen", TEXTS), ("rejected", TEXTS)])
IMAGES = pa.field("images", TEXTS)


def pairs(
    graded: InputPaths,
    out: str,
    val_fraction: float = 0.1,
    max_pairs: int | None = None,
    seed: int = 42,
    both_orders: bool = True,
) -> None:
    """Put right and wrong attempts at the same questions together.

    Args:
        graded: Files that `wdl grade` wrote, of all rounds so far, separated by commas.
        out: Folder to write to.
        val_fraction: Share of the questions to validate on, about, drawn by their hash.
        max_pairs: Most pairs of one question; some of its attempts are left out by lot. By default
            there is no limit.
        seed: Seeds that lot.
        both_orders: Whether an attempt at a question with an item is right only if the one of the
            same number is right in the other order of the pictures too; as many questions of each
            reference are then kept.
    """
    faults = {
        f"--val_fraction {val_fraction}: it lies in [0, 1)": not 0 <= val_fraction < 1,
        f"--max_pairs {max_pairs}: it is at least 1": max_pairs is not None and max_pairs < 1,
    }
    if found := [text for text, wrong in faults.items() if wrong]:
        raise UserError(*found)
    attempts, digests = read_graded(graded.paths)
    folder = Path(out)
    key = {
        "graded_sha256": digests,
        "val_fraction": val_fraction,
        "max_pairs": max_pairs,
        "seed": seed,
        "both_orders": both_orders,
    }
    output = Output(folder / "train.parquet", key, folder / "description.json", ".parquet")
    description = output.earlier()
    if description is None:
        counted, one_order = right_in_both_orders(attempts) if both_orders else (attempts, 0)
        sides = {name: both_sides(group) for name, group in by_question(counted).items()}
        contradictory = sum(one.contradictory for one in sides.values())
        sides = {name: one for name, one in sides.items() if one.pairs}
        if both_orders:
            sides = balanced(sides, seed)
        kept = {name: one.capped(max_pairs, seed) for name, one in sides.items()}
        parts: dict[str, list[Sides]] = {"train": [], "validation": []}
        for name, one in kept.items():
            held_out = lot("split", one.right[0].item or name) < val_fraction
            parts["validation" if held_out else "train"].append(one)
        if not kept:
            raise UserError(
                f"--graded {graded}: no question has both a right and a wrong attempt to train on"
                f"{told_contradictory(contradictory)}{told_one_order(one_order)}; sample more "
                "attempts, or at a higher temperature"
            )
        if not parts["train"]:
            raise UserError(
                f"--val_fraction {val_fraction}: it leaves none of {len(kept)} questions with "
                "pairs to train on; lower it"
            )
        description = {
            "model_sha256": [
                read_summary(summary_of(file)).get("model_sha256") for file in graded.paths
            ],
            **{name: _amounts(part) for name, part in parts.items()},
            "attempts": {
                **{name: n for name, n in statistics(attempts).items() if "pass@" not in name},
                "in_pairs": sum(one.size for one in kept.values()),
                "contradictory": contradictory,
                "right_in_one_order": one_order,
            },
        }
        tables = {
            folder / f"{name}.parquet": [with_images_from(one.row(), folder) for one in parts[name]]
            for name in ("validation", "train")
        }
        seen = any(one.images for one in kept.values())
        output.write_tables(tables, SCHEMA.append(IMAGES) if seen else SCHEMA, description)
    amounts = {name: description[name] for name in ("train", "validation")}
    for name, found in amounts.items():
        print(f"{folder / name}.parquet: {found['questions']} questions, {found['pairs']} pairs")
    every = description["attempts"]
    left_out = told_contradictory(every["contradictory"])
    print(f"{out}: {every['in_pairs']} of {every['attempts']} attempts are in pairs{left_out}")
    leave_outcome(
        {
            f"{name} {unit}": found[unit]
            for name, found in amounts.items()
            for unit in ("questions", "pairs")
        }
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

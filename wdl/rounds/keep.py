"""``wdl keep``: right attempts as rows to fine-tune on (rejection sampling).

    wdl keep --graded round-1/graded.jsonl --out round-1/rows.jsonl

A row is ``{"idx": 0, "messages": [..., {"role": "assistant", "content": ...}]}``, as `wdl fit`
reads it. Attempts that were cut off, and texts that are there already, are left out.
"""

from pathlib import Path
from typing import Any

from wdl.config.paths import InputPaths
from wdl.errors import UserError
from wdl.rounds.attempts import Attempt, by_question, read_graded
from wdl.rounds.output import Output
from wdl.rounds.sides import (
    balanced,
    both_sides,
    right_in_both_orders,
    told_contradictory,
    told_one_order,
)
from wdl.system.digests import lot
from wdl.system.outcome import leave_outcome


def keep(
    graded: InputPaths,
    out: str,
    per_question: int | None = None,
    seed: int = 42,
    both_orders: bool = True,
) -> None:
    """Write the right attempts.

    Args:
        graded: Files that `wdl grade` wrote, separated by commas.
        out: File to write, .jsonl.
        per_question: Most attempts at one question, drawn by lot; by default all.
        seed: Seeds the lot.
        both_orders: Whether an attempt at a question with an item counts only if the one of the
            same number is right in the other order of the pictures too; as many of each reference
            are then kept.
    """
    if per_question is not None and per_question < 1:
        raise UserError(f"--per_question {per_question}: it is at least 1")
    attempts, digests = read_graded(graded.paths)
    key = {
        "graded_sha256": digests,
        "per_question": per_question,
        "seed": seed,
        "both_orders": both_orders,
    }
    output = Output(Path(out), key)
    summary = output.earlier()
    if summary is None:
        groups, one_order = by_question(attempts), 0
        if both_orders:
            attempts, one_order = right_in_both_orders(attempts)
        sides = {name: both_sides(group) for name, group in by_question(attempts).items()}
        contradictory = sum(one.contradictory for one in sides.values())
        sides = {name: one for name, one in sides.items() if one.right}
        if both_orders:
            sides = balanced(sides, seed)
        kept = []
        for right in (one.right for one in sides.values()):
            drawn = sorted(right, key=lambda one: lot(seed, one.id, one.completion))[:per_question]
            kept += [one for one in right if one in drawn]
        if not kept:
            raise UserError(
                f"--graded {graded}: no attempt is right and whole"
                f"{told_contradictory(contradictory)}{told_one_order(one_order)}; there is nothing "
                "to keep"
            )
        summary = {
            "rows": len(kept),
            "questions": len({one.id for one in kept}),
            "asked": len(groups),
            "contradictory": contradictory,
            "right_in_one_order": one_order,
        }
        output.write((_row(idx, one) for idx, one in enumerate(kept)), summary)
    print(
        f"{out}: {summary['rows']} rows, right attempts at {summary['questions']} of "
        f"{summary['asked']} questions{told_contradictory(summary['contradictory'])}"
    )
    leave_outcome({"rows": summary["rows"], "questions": summary["questions"]})


def _row(idx: int, attempt: Attempt) -> dict[str, Any]:
    said = [*attempt.messages, {"role": "assistant", "content": attempt.completion}]
    return {"idx": idx, "messages": said, **({"images": attempt.images} if attempt.images else {})}

"""``wdl keep``: right attempts as rows to fine-tune on (rejection sampling).

    wdl keep --graded round-1/graded.jsonl --out round-1/rows.jsonl

A row is ``{"idx": 0, "messages": [..., {"role": "assistant", "content": ...}]}``, as `wdl fit`
reads it. Attempts that were cut off, and texts that are there already, are left out.
"""

from pathlib import Path

from wdl.config.paths import InputPaths
from wdl.errors import UserError
from wdl.rounds.attempts import by_question, read_graded
from wdl.rounds.output import Output
from wdl.rounds.sides import both_sides, told_contradictory
from wdl.system.digests import lot
from wdl.system.outcome import leave_outcome


def keep(graded: InputPaths, out: str, per_question: int | None = None, seed: int = 42) -> None:
    """Write the right attempts.

    Args:
        graded: Files that `wdl grade` wrote, separated by commas.
        out: File to write, .jsonl.
        per_question: Most attempts at one question, drawn by lot; by default all.
        seed: Seeds the lot.
    """
    if per_question is not None and per_question < 1:
        raise UserError(f"--per_question {per_question}: it is at least 1")
    attempts, digests = read_graded(graded.paths)
    key = {
        "graded_sha256": digests,
        "per_question": per_question,
        "seed": seed,
    }
    output = Output(Path(out), key)
    summary = output.earlier()
    if summary is None:
        sides = [both_sides(group) for group in by_question(attempts).values()]
        contradictory = sum(one.contradictory for one in sides)
        kept = []
        for right in (one.right for one in sides):
            drawn = sorted(right, key=lambda one: lot(seed, one.id, one.completion))[:per_question]
            kept += [one for one in right if one in drawn]
        if not kept:
            raise UserError(
                f"--graded {graded}: no attempt is right and whole"
                f"{told_contradictory(contradictory)}; there is nothing to keep"
            )
        conversations = (
            [*one.messages, {"role": "assistant", "content": one.completion}] for one in kept
        )
        summary = {
            "rows": len(kept),
            "questions": len({one.id for one in kept}),
            "asked": len(sides),
            "contradictory": contradictory,
        }
        output.write(
            ({"idx": idx, "messages": said} for idx, said in enumerate(conversations)), summary
        )
    print(
        f"{out}: {summary['rows']} rows, right attempts at {summary['questions']} of "
        f"{summary['asked']} questions{told_contradictory(summary['contradictory'])}"
    )
    leave_outcome({"rows": summary["rows"], "questions": summary["questions"]})

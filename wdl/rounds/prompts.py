"""``wdl prompts``: the questions of graded attempts, for engines of reinforcement learning.

    wdl prompts --graded round-1/graded.jsonl --out round-1/prompts.parquet

writes one row per question, with the columns that verl reads, and others (TRL, OpenRLHF) can:

    data_source    which of the engine's rules compares an answer with the reference
    prompt         the messages
    ability        math
    reward_model   {"style": "rule", "ground_truth": the reference}
    extra_info     {"index", "id", "attempts": how many were graded, "right": how many were right}
"""

from pathlib import Path
from typing import Any

import pyarrow as pa

from wdl.config.paths import InputPaths
from wdl.errors import UserError
from wdl.rounds.attempts import Attempt, by_question, read_graded
from wdl.rounds.output import MESSAGES, Output
from wdl.rounds.sides import one_prompt
from wdl.system.outcome import leave_outcome

TEXT, NUMBER = pa.string(), pa.int64()
SCHEMA = pa.schema(
    [
        ("data_source", TEXT),
        ("prompt", MESSAGES),
        ("ability", TEXT),
        ("reward_model", pa.struct([("style", TEXT), ("ground_truth", TEXT)])),
        (
            "extra_info",
            pa.struct([("index", NUMBER), ("id", TEXT), ("attempts", NUMBER), ("right", NUMBER)]),
        ),
    ]
)


def prompts(graded: InputPaths, out: str, data_source: str = "lighteval/MATH") -> None:
    r"""Write the questions with their references.

    Args:
        graded: Files that `wdl grade` wrote, separated by commas.
        out: File to write, .parquet.
        data_source: By this name verl chooses its rule; that of lighteval/MATH compares the last
            \boxed{} with the reference.
    """
    attempts, digests = read_graded(graded.paths)
    if any(attempt.images for attempt in attempts):
        raise UserError(f"--graded {graded}: questions with pictures are not written as prompts")
    key = {
        "graded_sha256": digests,
        "data_source": data_source,
    }
    output = Output(Path(out), key, suffix=".parquet")
    summary = output.earlier()
    if summary is None:
        groups = by_question(attempts).values()
        rows = [_row(group, index, data_source) for index, group in enumerate(groups)]
        summary = {"questions": len(rows)}
        output.write_tables({output.path: rows}, SCHEMA, summary)
    print(f"{out}: {summary['questions']} questions")
    leave_outcome({"questions": summary["questions"]})


def _row(attempts: list[Attempt], index: int, data_source: str) -> dict[str, Any]:
    verdicts = [attempt.verdict for attempt in attempts]
    return {
        "data_source": data_source,
        "prompt": one_prompt(attempts),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": attempts[0].answer},
        "extra_info": {
            "index": index,
            "id": attempts[0].id,
            "attempts": len(verdicts) - verdicts.count("ungraded"),
            "right": verdicts.count("right"),
        },
    }

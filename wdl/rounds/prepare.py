r"""``wdl prepare``: AM-DeepSeek-R1-Distilled the paper's way, from many files to one data set.

    wdl prepare --data am-deepseek/ --out am-maths.jsonl

Kept are the conversations whose answer has the paper's format,
``<think>...</think> <answer>...\boxed{}...</answer>``, and whose boxed answer math-verify holds to
be the reference that the data gives (``info.reference_answer``). They are numbered from 0. Rows
stream; a killed run goes on at the block of rows where it stopped.
"""

import re
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from wdl.config.paths import InputPath
from wdl.data.rows import Faults, RowError, data_files, rows_of
from wdl.data.schemas import parse_row
from wdl.grading.answers import last_boxed
from wdl.grading.grader import Grader, Task
from wdl.rounds.output import Output
from wdl.system.digests import files_digest
from wdl.system.journal import Journal
from wdl.system.outcome import leave_outcome

BLOCK = 512
_FORMAT = re.compile(r"\s*<think>(.+?)</think>\s*<answer>(.+)</answer>\s*", re.DOTALL)


def prepare(data: InputPath, out: str, workers: int | None = None, limit: float = 10.0) -> None:
    r"""Keep what has the paper's format and a verified answer.

    Args:
        data: A .jsonl.zst file, or a folder of them (.jsonl and .parquet will do too).
        out: File to write: {"idx": 0, "messages": [...]} per line.
        workers: Processes that verify answers; by default as many as there are cores.
        limit: Seconds that the verification of one answer may take.
    """
    files = data_files(Path(data))
    key = {"data": files_digest(files), "limit": limit}
    output = Output(Path(out), key)
    summary = output.earlier()
    if summary is None:
        with Journal(output.journal, key) as journal:
            with Grader(workers, limit) as grader:
                counts = _judge(files, journal, grader)
            kept = (messages for entry in journal.entries() for messages in entry["kept"])
            rows = ({"idx": idx, "messages": messages} for idx, messages in enumerate(kept))
            output.write(rows, {"rows": counts})
    else:
        counts = Counter(summary["rows"])
    print(_report(counts, out))
    leave_outcome({"samples": counts["kept"]})


def _judge(files: list[Path], journal: Journal, grader: Grader) -> Counter[str]:
    """How many rows got which verdict; goes through those that the journal does not hold yet.

    An entry of the journal is a block: the verdicts on its rows, and those that are kept. Lines
    that are no JSON are no rows there.
    """
    counts: Counter[str] = Counter()
    for entry in journal.entries():
        counts.update(entry["verdicts"])
    faults = Faults()
    every = (row for file in files for _, row in rows_of(file, faults))
    rows = islice(every, counts.total(), None)
    with tqdm(unit=" rows", desc="verifying", initial=counts.total()) as bar:
        for block in iter(lambda: list(islice(rows, BLOCK)), []):
            verdicts = _verdicts(block, grader)
            judged = zip(block, verdicts, strict=True)
            kept = [_conversation(row) for row, verdict in judged if verdict == "kept"]
            journal.append([{"verdicts": Counter(verdicts), "kept": kept}])
            counts.update(verdicts)
            bar.update(len(block))
            bar.set_postfix(kept=counts["kept"])
    return counts + Counter({"broken row": faults.total})


def _conversation(row: Any) -> list[dict[str, str]]:
    record = parse_row(row)
    return [*record["messages"], {"role": "assistant", "content": record["completion"]}]


def _report(counts: Counter[str], out: str) -> str:
    """How many rows were kept, and why the others were not."""
    lines = [f"{counts['kept']} of {counts.total()} rows kept: {out}"]
    dropped = [(count, why) for why, count in counts.items() if why != "kept"]
    lines += [f"{count:>10} dropped: {why}" for count, why in sorted(dropped, reverse=True)]
    return "\n".join(lines)


def _verdicts(rows: list[Any], grader: Grader) -> list[str]:
    found = [_look(row) for row in rows]
    tasks = [task for task in found if isinstance(task, Task)]
    grades = iter(grader.grade(tasks))
    names = {"correct": "kept", "could_not_grade": "could not grade"}
    return [
        names.get(next(grades).status, "wrong answer") if isinstance(one, Task) else one
        for one in found
    ]


def _look(row: Any) -> str | Task:
    """What can be said of a row at a glance, or what is to be verified."""
    try:
        record = parse_row(row)
    except RowError:
        return "broken row"
    if record["images"]:
        return "pictures, which are not read here"
    reference = _reference(row)
    if reference is None:
        return "no reference"
    answer = _FORMAT.fullmatch(record["completion"])
    if answer is None or not last_boxed(answer[2]):
        return "other format"
    return Task("expression", "", reference, record["completion"], complete=True)


def _reference(row: dict[str, Any]) -> str | None:
    """The reference answer, which AM-DeepSeek-R1-Distilled gives with the question."""
    for message in row.get("messages", []):
        information = message.get("info")
        if isinstance(information, dict) and isinstance(information.get("reference_answer"), str):
            reference = information["reference_answer"].strip()
            return last_boxed(reference) or reference or None
    return None

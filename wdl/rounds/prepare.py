r"""``wdl prepare``: AM-DeepSeek-R1-Distilled the paper's way, from many files to one data set.

    wdl prepare --data am-deepseek/ --out am-maths.jsonl

Kept are the conversations whose answer has the paper's format,
``<think>...</think> <answer>...\boxed{}...</answer>``, and whose boxed answer math-verify holds to
be the reference that the data gives (``info.reference_answer``). They are numbered from 0. Rows
stream; a killed run goes on at the block of rows where it stopped.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from wdl.config.paths import InputPath
from wdl.data.rows import Faults, RowError, data_files, rows_of
from wdl.data.schemas import parse_row
from wdl.errors import UserError
from wdl.grading.answers import last_boxed
from wdl.grading.grader import Grader, Task
from wdl.system.digests import files_digest
from wdl.system.files import write_json, write_lines

BLOCK = 512
_FORMAT = re.compile(r"\s*<think>(.+?)</think>\s*<answer>(.+)</answer>\s*", re.DOTALL)

Verdict = Literal[
    "kept", "broken row", "no reference", "other format", "wrong answer", "could not grade"
]


def prepare(data: InputPath, out: str, workers: int | None = None, limit: float = 10.0) -> None:
    r"""Keep what has the paper's format and a verified answer.

    Args:
        data: A .jsonl.zst file, or a folder of them (.jsonl and .parquet will do too).
        out: File to write: {"idx": 0, "messages": [...]} per line.
        workers: Processes that verify answers; by default as many as there are cores.
        limit: Seconds that the verification of one answer may take.
    """
    files = data_files(Path(data))
    journal = Journal(Path(out), {"data": files_digest(files), "limit": limit})
    if not journal.finished:
        with Grader(workers, limit) as grader:
            _judge(files, journal, grader)
        journal.finish()
    print(journal.summary())


def _judge(files: list[Path], journal: "Journal", grader: Grader) -> None:
    """Go through all rows that the journal does not hold yet."""
    faults = Faults()
    done = journal.rows
    every = (row for file in files for _, row in _whole_rows(file, faults))
    rows = islice(every, done, None)
    with tqdm(unit=" rows", desc="verifying", initial=done) as bar:
        for block in iter(lambda: list(islice(rows, BLOCK)), []):
            journal.commit(list(zip(_verdicts(block, grader), block, strict=True)))
            bar.update(len(block))
            bar.set_postfix(kept=journal.counts["kept"])


def _whole_rows(file: Path, faults: Faults) -> Iterator[tuple[int, Any]]:
    """The rows of a file; lines that are no JSON come as None, so that they are counted."""
    broken = faults.total
    for line, row in rows_of(file, faults):
        while faults.total > broken:
            broken += 1
            yield line, None
        yield line, row
    while faults.total > broken:
        broken += 1
        yield 0, None


def _verdicts(rows: list[Any], grader: Grader) -> list[Verdict]:
    found: list[Verdict | Task] = [_look(row) for row in rows]
    tasks = [task for task in found if isinstance(task, Task)]
    grades = iter(grader.grade(tasks))
    names: dict[str, Verdict] = {"correct": "kept", "could_not_grade": "could not grade"}
    return [
        names.get(next(grades).status, "wrong answer") if isinstance(one, Task) else one
        for one in found
    ]


def _look(row: Any) -> Verdict | Task:
    """What can be said of a row at a glance, or what is to be verified."""
    try:
        record = parse_row(row)
    except RowError:
        return "broken row"
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


class Journal:
    """What has been judged so far, committed block by block.

    Args:
        out: The file in the end; the journal and the summary stand beside it.
        key: What the result depends on.

    Raises:
        UserError: ``out`` was made from something else, or by something else.
    """

    def __init__(self, out: Path, key: dict[str, Any]) -> None:
        self.out = out
        self.key = key
        self.rows = 0
        self.counts: Counter[str] = Counter()
        self._file = out.with_name(f".{out.name}.journal")
        self._summary = out.with_name(f"{out.name}.summary.json")
        self._read_summary()
        if not self.finished and self._file.exists():
            self._resume()
        elif not self.finished:
            out.parent.mkdir(parents=True, exist_ok=True)
            self._append([json.dumps({"key": key})])

    @property
    def finished(self) -> bool:
        """Whether the result is complete."""
        return self.out.exists()

    def _read_summary(self) -> None:
        if not self.finished:
            return
        found = json.loads(self._summary.read_text()) if self._summary.exists() else {}
        self._check(found.get("key"))
        self.counts, self.rows = Counter(found["rows"]), sum(found["rows"].values())

    def _resume(self) -> None:
        """Read what is committed, and cut off what comes after the last commit."""
        end = 0
        with self._file.open("rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    break
                if "key" in entry:
                    self._check(entry["key"])
                if "key" in entry or "judged" in entry:
                    end = lines.tell()
                    self.counts.update(entry.get("judged", {}))
        self.rows = self.counts.total()
        os.truncate(self._file, end)
        if not end:
            self._append([json.dumps({"key": self.key})])

    def _check(self, key: Any) -> None:
        if key != self.key:
            raise UserError(
                f"--out {self.out}: it was begun with other data or another limit; delete it and "
                f"{self._file.name}, or choose another file"
            )

    def commit(self, judged: list[tuple[Verdict, Any]]) -> None:
        """Write the kept rows of a block, then the line that makes them count."""
        counts = Counter(verdict for verdict, _ in judged)
        kept = [parse_row(row) for verdict, row in judged if verdict == "kept"]
        answers = [{"role": "assistant", "content": record["completion"]} for record in kept]
        lines = [
            json.dumps({"messages": [*record["messages"], answer]}, ensure_ascii=False)
            for record, answer in zip(kept, answers, strict=True)
        ]
        self._append([*lines, json.dumps({"judged": counts})])
        self.counts.update(counts)
        self.rows += len(judged)

    def _append(self, lines: list[str]) -> None:
        with self._file.open("a", encoding="utf-8") as stream:
            stream.writelines(f"{line}\n" for line in lines)
            stream.flush()
            os.fsync(stream.fileno())

    def finish(self) -> None:
        """Number the kept rows, write them, and leave only the summary beside them."""
        write_json(self._summary, {"key": self.key, "rows": dict(self.counts)})
        write_lines(self.out, self._numbered())
        self._file.unlink()

    def _numbered(self) -> Iterator[str]:
        idx = 0
        with self._file.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                if "messages" in entry:
                    yield json.dumps({"idx": idx, **entry}, ensure_ascii=False)
                    idx += 1

    def summary(self) -> str:
        """How many rows were kept, and why the others were not."""
        kept = self.counts["kept"]
        lines = [f"{kept} of {self.rows} rows kept: {self.out}"]
        dropped = [(count, why) for why, count in self.counts.items() if why != "kept"]
        lines += [f"{count:>10} dropped: {why}" for count, why in sorted(dropped, reverse=True)]
        return "\n".join(lines)

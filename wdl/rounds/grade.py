"""``wdl grade``: whether attempts are right.

    wdl grade --samples round-1/samples.jsonl --out round-1/graded.jsonl

or, with a teacher where rules cannot tell,

    wdl grade --samples round-1/samples.jsonl --out round-1/graded.jsonl --by rules_then_teacher \
        --teacher.url http://localhost:8000/v1 --teacher.model Qwen/Qwen3-8B

Each attempt gets a verdict: right, wrong or ungraded. As in an evaluation, an attempt that was cut
off before it stated an answer is not right; here that is wrong, and its ``finish_reason`` tells it
from others. Ungraded is what no judge could tell; it is never counted as wrong. Verdicts are in a
journal as soon as they are there; a teacher's replies stay beside them, in OUT.teacher.jsonl.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from wdl.config.paths import InputPath
from wdl.errors import UserError
from wdl.grading.grader import BaseGrader, Grade, Status, Task, grades_by
from wdl.grading.judges import RULES, JudgeName, find_client, find_grader
from wdl.remote.endpoint import Teacher, bill_line
from wdl.rounds.attempts import Attempt, Key, Verdict, read_samples, shares_of, statistics, told
from wdl.rounds.output import Output, read_summary, summary_of
from wdl.rounds.pool import kind_of
from wdl.system.child import resumable
from wdl.system.digests import files_digest
from wdl.system.journal import Journal
from wdl.system.outcome import leave_outcome

if TYPE_CHECKING:
    from wdl.remote.teacher import TeacherClient

BLOCK = 512
VERDICT_OF: dict[Status, Verdict] = {
    "correct": "right",
    "wrong": "wrong",
    "cut_off": "wrong",
    "could_not_grade": "ungraded",
}
STATUS_OF: dict[Verdict, Status] = {
    "right": "correct",
    "wrong": "wrong",
    "ungraded": "could_not_grade",
}


@dataclass(frozen=True)
class Ruling:
    """The verdict on one attempt, with what the judge saw; see :class:`Attempt`."""

    id: str
    attempt: int
    verdict: Verdict
    stated: str | None
    detail: str = ""

    @property
    def key(self) -> Key:
        """The attempt's."""
        return self.id, self.attempt


class Judge(ABC):
    """Whatever can say of attempts whether they are right."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name, version and all else that decides about verdicts, for the record."""

    @abstractmethod
    def judge(self, attempts: Sequence[Attempt]) -> Iterator[list[Ruling]]:
        """A ruling on each attempt, in any order, as they get ready.

        What a ruling is does not depend on the other attempts.
        """

    def report(self, graded: Sequence[Attempt]) -> dict[str, Any]:
        """What is to be said of the judge, once it has judged all attempts."""
        return {}

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Give back what the judge holds; it can judge no more."""


class RulesJudge(Judge):
    """A grader, which compares what an attempt states with the reference."""

    def __init__(self, grader: BaseGrader) -> None:
        self._grader = grader

    def describe(self) -> dict[str, Any]:
        """The grader's own description."""
        return self._grader.describe()

    def judge(self, attempts: Sequence[Attempt]) -> Iterator[list[Ruling]]:
        """A ruling on each attempt, in blocks."""
        for start in range(0, len(attempts), BLOCK):
            block = attempts[start : start + BLOCK]
            grades = grades_by(self._grader, [_task(attempt) for attempt in block])
            yield [
                Ruling(one.id, one.attempt, VERDICT_OF[grade.status], grade.answer, grade.detail)
                for one, grade in zip(block, grades, strict=True)
            ]

    def report(self, graded: Sequence[Attempt]) -> dict[str, Any]:
        """What the grader says."""
        grades = [
            Grade(STATUS_OF[one.verdict], one.stated, one.detail)
            for one in graded
            if one.verdict is not None
        ]
        return self._grader.report([_task(one) for one in graded], grades)

    def close(self) -> None:
        """End the grader's workers."""
        self._grader.close()


class TeacherJudge(RulesJudge):
    """A teacher, alone or after rules.

    Args:
        grader: Asks it.
        client: Its replies.
    """

    def __init__(self, grader: BaseGrader, client: "TeacherClient") -> None:
        super().__init__(grader)
        self._client = client

    def report(self, graded: Sequence[Attempt]) -> dict[str, Any]:
        """What the teacher has cost too."""
        return {"teacher": self._client.bill(), **super().report(graded)}

    def close(self) -> None:
        """Let go of both."""
        super().close()
        self._client.close()


def find_judge(by: JudgeName, teacher: Teacher | None, replies: Path) -> Judge:
    """The judge of that name, or the grader that a YAML file names.

    Args:
        by: Which.
        teacher: Where a teacher is, if one takes part.
        replies: File for its replies.

    Raises:
        UserError: The file defines no grader, or there is no teacher, or one who is not asked.
    """
    client = find_client(by, teacher, replies)
    grader = find_grader(by, client)
    return RulesJudge(grader) if client is None else TeacherJudge(grader, client)


def grade(
    samples: InputPath, out: str, by: JudgeName = RULES, teacher: Teacher | None = None
) -> None:
    """Judge the attempts of a round.

    Args:
        samples: Attempts, as `wdl sample` writes them.
        out: File to write, .jsonl: the same attempts with verdict, stated answer and detail.
        by: What judges: rules, the rules of `wdl evaluate` for the kind of the reference (a number,
            a choice, an expression); teacher, a model that is asked about each attempt;
            rules_then_teacher, which asks it where rules cannot tell; or a YAML file with the
            class_path and init_args of a grader of your own.
        teacher: Where the teacher is.
    """
    file = Path(samples)
    replies = Path(f"{out}.teacher.jsonl")
    with closing(find_judge(by, teacher, replies)) as judge:
        attempts = read_samples(file)
        if by.asks_teacher and any(attempt.images for attempt in attempts):
            raise UserError(
                f"--by {by}: a teacher is not shown pictures, and {file} has some; grade by rules, "
                "or by a grader of your own"
            )
        output = Output(
            Path(out), {"samples_sha256": files_digest([file]), "judge": judge.describe()}
        )
        summary = output.earlier()
        if summary is None:
            with Journal(output.journal, output.key) as journal, resumable("the judge"):
                graded = _judge(judge, attempts, journal)
            model = read_summary(summary_of(file))["key"].get("model_sha256")
            summary = {"model_sha256": model, "results": statistics(graded)}
            summary |= judge.report(graded)
            output.write((attempt.row() for attempt in graded), summary)
    results = summary["results"]
    print(f"{out}: {told(results)}")
    bill = summary.get("teacher", {})
    if bill:
        print(bill_line(bill))
    shares = shares_of(results)
    if both := summary.get("agreement", {}).get("both"):
        shares["agreement"] = summary["agreement"]["agree"] / both
        print(f"teacher and rules agree on {shares['agreement']:.1%} of {both} attempts")
    leave_outcome({"attempts": results["attempts"], **bill}, shares)


def _judge(judge: Judge, attempts: Sequence[Attempt], journal: Journal) -> list[Attempt]:
    """The attempts with their verdicts, each in the journal by now."""
    rulings = {ruling.key: ruling for ruling in (Ruling(**entry) for entry in journal.entries())}
    missing = [attempt for attempt in attempts if attempt.key not in rulings]
    with tqdm(total=len(attempts), initial=len(rulings), desc="grade", unit="attempt") as bar:
        for ready in judge.judge(missing):
            journal.append([asdict(ruling) for ruling in ready])
            rulings |= {ruling.key: ruling for ruling in ready}
            bar.update(len(ready))
    return [replace(attempt, **asdict(rulings[attempt.key])) for attempt in attempts]


def _task(attempt: Attempt) -> Task:
    return Task(
        kind=kind_of(attempt.question, attempt.answer),
        question=attempt.question,
        reference=attempt.answer,
        completion=attempt.completion,
        complete=attempt.finish_reason == "stop",
        thinking=attempt.thinking,
    )

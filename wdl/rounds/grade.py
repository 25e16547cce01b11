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

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jsonargparse.typing import register_type
from tqdm import tqdm

from wdl.config.definitions import read_class
from wdl.config.paths import InputPath
from wdl.errors import UserError
from wdl.grading.grader import BaseGrader, Grader, Status, Task, grades_by
from wdl.remote.endpoint import Teacher
from wdl.rounds.attempts import Attempt, Key, Verdict, read_samples, shares_of, statistics, told
from wdl.rounds.output import Output, read_summary, resumable, summary_of
from wdl.rounds.pool import kind_of
from wdl.system.digests import files_digest
from wdl.system.journal import Journal
from wdl.system.outcome import leave_outcome

if TYPE_CHECKING:
    from wdl.remote.teacher import TeacherClient

BLOCK = 512
IS_RIGHT: dict[Verdict, bool | None] = {"right": True, "wrong": False, "ungraded": None}
VERDICT_OF: dict[Status, Verdict] = {
    "correct": "right",
    "wrong": "wrong",
    "cut_off": "wrong",
    "could_not_grade": "ungraded",
}


JUDGES = ("rules", "teacher", "rules_then_teacher")


class JudgeName(str):
    """``rules``, ``teacher``, ``rules_then_teacher``, or the YAML file of a grader."""


def _judge_name(value: str) -> JudgeName:
    """A path that is absolute, but a name as it is, which must not be taken for a file."""
    if value.endswith((".yaml", ".yml")):
        return JudgeName(os.path.abspath(os.path.expanduser(value)))
    if value not in JUDGES:
        raise ValueError(f"{value!r}; choose from {', '.join(JUDGES)}, or give a YAML file")
    return JudgeName(value)


register_type(JudgeName, serializer=str, deserializer=_judge_name)
RULES = cast(JudgeName, "rules")


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

    def close(self) -> None:
        """End the grader's workers."""
        self._grader.close()


class TeacherJudge(RulesJudge):
    """A teacher, alone or after rules.

    Args:
        grader: Asks it.
        client: Its replies.
        alone: Whether it judges all attempts, so that rules can be compared with it.
    """

    def __init__(self, grader: BaseGrader, client: "TeacherClient", alone: bool) -> None:
        super().__init__(grader)
        self._client = client
        self._alone = alone

    def report(self, graded: Sequence[Attempt]) -> dict[str, Any]:
        """What the teacher cost, and how it agrees with rules."""
        from wdl.grading.judge import agreement

        if not self._alone:
            return {"teacher": self._client.bill()}
        with Grader() as rules:
            statuses = [grade.status for grade in rules.grade(_task(one) for one in graded)]
        both = agreement(
            [IS_RIGHT[VERDICT_OF[status]] for status in statuses],
            [IS_RIGHT[one.verdict] for one in graded if one.verdict is not None],
        )
        return {"teacher": self._client.bill(), "agreement": both}

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
    if teacher is not None and by not in JUDGES[1:]:
        raise UserError(
            f"--by {by}: it asks no teacher; take --by rules_then_teacher or --by teacher, or "
            "leave --teacher out"
        )
    if by == "rules":
        return RulesJudge(Grader())
    if by in JUDGES:
        if teacher is None:
            raise UserError(f"--by {by}: name the teacher, by --teacher.url and --teacher.model")
        from wdl.grading.judge import RulesThenTeacher, TeacherGrader
        from wdl.remote.teacher import TeacherClient

        client = TeacherClient(teacher, replies)
        asked = TeacherGrader(client)
        alone = by == "teacher"
        return TeacherJudge(asked if alone else RulesThenTeacher(Grader(), asked), client, alone)
    return RulesJudge(read_class(Path(by), BaseGrader, given=0)())  # type: ignore[type-abstract]


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
        if by in JUDGES[1:] and any(attempt.images for attempt in attempts):
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
        print(
            f"teacher: {bill['replies']} replies, {bill['tokens']} tokens, cost {bill['cost']:.4f}"
        )
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

"""Evaluations that another judge than the rules grades: what it may grade, and what it says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wdl.errors import UserError
from wdl.evaluation.sources import ProblemSet
from wdl.generation.protocols import Protocol
from wdl.grading.judges import RULES, JudgeName
from wdl.system.child import ChildFailure

if TYPE_CHECKING:
    from wdl.remote.teacher import TeacherClient


def check_judge(by: JudgeName, sets: Sequence[ProblemSet], protocol: Protocol) -> None:
    """Refuse a judge that would not be asked, or could not see what is asked.

    Raises:
        UserError: The protocol or a benchmark has a grader of its own, programs are run instead,
            or a teacher would have to look at pictures.
    """
    if by == RULES:
        return
    faults = []
    if protocol.grader != "rules":
        faults.append(
            f"--by {by}: the protocol {protocol.name} is graded by {protocol.grader}; take another "
            "protocol, or leave --by out"
        )
    for one in sets:
        name = one.benchmark.name
        if one.benchmark.grader is not None or one.benchmark.kind == "code":
            how = "running its programs" if one.benchmark.kind == "code" else "a grader of its own"
            faults.append(f"--by {by}: {name} is graded by {how}; evaluate it without --by")
        elif by.asks_teacher and any(problem.images for problem in one.problems):
            faults.append(
                f"--by {by}: a teacher is not shown pictures, and {name} has some; grade it by "
                "rules, or by a grader of your own"
            )
    if faults:
        raise UserError(*faults)


def reach(client: "TeacherClient") -> None:
    """Ask the teacher to fill in a form, so that one who is not there shows before all else.

    Raises:
        UserError: It does not answer, or refuses the key.
    """
    from wdl.grading.judge import FORM

    try:
        client.takes_schemas(FORM)
    except ChildFailure as failure:
        raise UserError(
            f"--teacher.url {client.teacher.url}: the teacher does not answer ({failure}); start "
            "it, or mend the address"
        ) from failure


def agreements(results: dict[str, Any]) -> list[str]:
    """How often a teacher and the rules agree, a line for each model and benchmark.

    Args:
        results: Records by model and benchmark.
    """
    return [
        f"{label} on {benchmark}: teacher and rules agree on {both['agree'] / both['both']:.1%} "
        f"of {both['both']} answers (right by the rules alone: {both['only_rules']}, by the "
        f"teacher alone: {both['only_teacher']})"
        for label, of_model in results.items()
        for benchmark, record in of_model.items()
        if (both := record.get("judge", {}).get("agreement")) and both["both"]
    ]

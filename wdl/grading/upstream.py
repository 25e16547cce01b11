"""The grader of the paper's published code, for comparisons with published numbers.

It judges as that code does, its mistakes included; ``docs/upstream.md`` lists where it and the
rules of this project disagree.
"""

from importlib.metadata import version
from typing import Any

from wdl.grading.grader import Grade, Grader, Task
from wdl.system.child import ChildFailure

# Raised whenever the same answer may be graded differently than before.
UPSTREAM_VERSION = 1


class UpstreamGrader(Grader):
    """Grades whole completions by math-verify, as the published code does.

    The kind, tolerance and completeness of a task decide nothing: letters are told by the
    reference alone, and an answer that was cut off is right if it holds the right box.

    Args:
        workers: Number of processes; by default as many as there are cores.
        limit: Seconds that one answer may take. The published code sets no limit on a whole
            answer; math-verify's own of 5 s a step apply within it.
    """

    worker_module = "wdl.grading.upstream_worker"

    def __init__(self, workers: int | None = None, limit: float = 120.0) -> None:
        super().__init__(workers, limit)

    def describe(self) -> dict[str, Any]:
        """Name and versions, for the record."""
        versions = {name: version(name) for name in ("math-verify", "latex2sympy2_extended")}
        return {"name": "upstream", "rules": UPSTREAM_VERSION, "versions": versions}

    def _grade(self, task: Task) -> Grade:
        message = {
            "completion": task.completion,
            "reference": task.reference,
            "question": task.question,
        }
        try:
            verdict = self._ask(message)
        except ChildFailure as failure:
            return Grade("could_not_grade", None, str(failure))
        if verdict["right"] is None:
            detail = f"math-verify cannot read the reference {task.reference!r}"
            return Grade("could_not_grade", verdict["answer"], detail)
        return Grade("correct" if verdict["right"] else "wrong", verdict["answer"])

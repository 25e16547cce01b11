"""The graders that a protocol can name."""

from collections.abc import Callable

from wdl.grading.grader import BaseGrader, Grader
from wdl.grading.upstream import UpstreamGrader

GRADERS: dict[str, Callable[[], BaseGrader]] = {"rules": Grader, "upstream": UpstreamGrader}

"""What ``wdl evaluate`` looks at before models write programs: whether these can be run."""

from collections.abc import Sequence

from wdl.evaluation.sources import ProblemSet
from wdl.grading.code import missing_libraries
from wdl.system.sandbox import Sandbox, SandboxOptions
from wdl.system.sandbox_run import Limits


def prepare_code(sets: Sequence[ProblemSet], options: SandboxOptions) -> Sandbox | None:
    """Where programs will run; None if no benchmark asks for any.

    Libraries that problems need and that are not installed are said on the screen.

    Raises:
        UserError: Programs cannot be run in that way.
    """
    sets = [one for one in sets if one.benchmark.kind == "code" and not one.benchmark.grader]
    if not sets:
        return None
    sandbox = Sandbox(options.kind, Limits(seconds=options.seconds))
    sandbox.check()
    for one in sets:
        missing = missing_libraries(problem.tests for problem in one.problems)
        if missing:
            named = ", ".join(f"{name} ({count})" for name, count in sorted(missing.items()))
            print(
                f"{one.benchmark.name}: not installed, but needed by so many problems, whose "
                f"answers could then not be graded: {named}"
            )
    return sandbox

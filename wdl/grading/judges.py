"""The judges that a command line can name: rules, a teacher, both, or a grader of one's own."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse.typing import register_type

from wdl.config.definitions import read_class
from wdl.errors import UserError
from wdl.grading.grader import BaseGrader, Grader
from wdl.remote.endpoint import Teacher

if TYPE_CHECKING:
    from wdl.remote.teacher import TeacherClient

JUDGES = ("rules", "teacher", "rules_then_teacher")


class JudgeName(str):
    """``rules``, ``teacher``, ``rules_then_teacher``, or the YAML file of a grader."""

    @property
    def asks_teacher(self) -> bool:
        """Whether a teacher takes part."""
        return self in JUDGES[1:]


def _judge_name(value: str) -> JudgeName:
    """A path that is absolute, but a name as it is, which must not be taken for a file."""
    if value.endswith((".yaml", ".yml")):
        return JudgeName(os.path.abspath(os.path.expanduser(value)))
    if value not in JUDGES:
        raise ValueError(f"{value!r}; choose from {', '.join(JUDGES)}, or give a YAML file")
    return JudgeName(value)


register_type(JudgeName, serializer=str, deserializer=_judge_name)
RULES = JudgeName("rules")


def find_client(by: JudgeName, teacher: Teacher | None, replies: Path) -> "TeacherClient | None":
    """Who is asked, if ``by`` asks a teacher.

    Args:
        by: What judges.
        teacher: Where a teacher is.
        replies: File for its replies.

    Raises:
        UserError: There is no teacher, or one who would not be asked.
    """
    if not by.asks_teacher:
        if teacher is not None:
            raise UserError(
                f"--by {by}: it asks no teacher; take --by rules_then_teacher or --by teacher, or "
                "leave --teacher out"
            )
        return None
    if teacher is None:
        raise UserError(f"--by {by}: name the teacher, by --teacher.url and --teacher.model")
    from wdl.remote.teacher import TeacherClient

    return TeacherClient(teacher, replies)


def find_grader(by: JudgeName, client: "TeacherClient | None") -> BaseGrader:
    """The grader of that name, or the one that a YAML file names.

    Args:
        by: What judges.
        client: As :func:`find_client` returns it.

    Raises:
        UserError: The file defines no grader.
    """
    if client is not None:
        from wdl.grading.judge import RulesThenTeacher, TeacherGrader

        asked = TeacherGrader(client)
        return asked if by == "teacher" else RulesThenTeacher(Grader(), asked)
    if by == RULES:
        return Grader()
    return read_class(Path(by), BaseGrader, given=0)()  # type: ignore[type-abstract]

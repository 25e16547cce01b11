r"""``wdl pool``: the questions of any data set, for `wdl sample` and `wdl evaluate`.

    wdl pool --set judged.yaml --out pool.jsonl

A set is a YAML that names its files and the form of its rows:

    path: judged.parquet
    form:
      class_path: wdl.rounds.sets.BetterImage
      init_args:
        question: "<image><image>\nCaption: {caption}\nWhich picture fits the caption better?"

A set of another form needs a class of its own with one method, in a module that Python finds, such
as a file in the current folder. How models are asked, judged and trained afterwards is not the
set's business: see docs/vision.md.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdl.config.definitions import read_definition
from wdl.config.paths import DataSource, InputPath
from wdl.data.rows import Faults, HubData, RowError, data_parts, rows_of
from wdl.errors import UserError
from wdl.rounds.output import Output
from wdl.rounds.pool import Question, question_of
from wdl.system.digests import files_digest, value_digest
from wdl.system.outcome import leave_outcome


class Form(ABC):
    """What the rows of a set look like."""

    @abstractmethod
    def questions(self, row: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """The questions that a row asks, each as :mod:`wdl.questions.problems` reads it.

        Beside these keys, ``item`` says which questions ask the same with the pictures in another
        order. A row that asks nothing is left out, and counted.

        Raises:
            RowError: What is wrong with the row.
        """


@dataclass
class BetterImage(Form):
    """Pairs of pictures with a score for each; asked in both orders, and not at all if equal.

    Args:
        question: What is asked; ``{KEY}`` stands for what the row has at a key. It must have two
            ``<image>``.
        images: Key of the two pictures.
        scores: Key of their scores, of which the greater is the better.
        answer: What is answered; ``{n}`` stands for 1 or 2.
    """

    question: str
    images: str = "images"
    scores: str = "scores"
    answer: str = "Image {n} is better"

    def questions(self, row: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """One for each order."""
        images, scores = row.get(self.images), row.get(self.scores)
        if not isinstance(images, list) or len(images) != 2:
            raise RowError(f"{self.images!r} must be a list of two pictures")
        if (
            not isinstance(scores, list)
            or len(scores) != 2
            or not all(isinstance(score, int | float) for score in scores)
        ):
            raise RowError(f"{self.scores!r} must be a list of two numbers")
        if scores[0] == scores[1]:
            return
        try:
            question = self.question.format_map(row)
        except (KeyError, IndexError, ValueError) as error:
            raise RowError(f"the question wants {error}, which the row does not have") from None
        item = value_digest([question, str(images)])[:16]
        for order in (1, -1):
            better = 1 if (scores[0] > scores[1]) == (order == 1) else 2
            yield {
                "problem": question,
                "solution": self.answer.format(n=better),
                "images": images[::order],
                "item": item,
            }


@dataclass(frozen=True)
class SetOfQuestions:
    """A data set and the form of its rows.

    Args:
        path: A data file, a folder of them, or a data set of the hub.
        form: ``class_path`` and ``init_args``.
    """

    path: DataSource
    form: Form


def pool(set: InputPath, out: str) -> None:
    """Write the questions of a data set.

    Args:
        set: A YAML with the path and the form of the set.
        out: File to write, .jsonl.

    Raises:
        UserError: One line ``file:line: what; remedy`` for each faulty row, or there is none.
    """
    named = read_definition(Path(set), SetOfQuestions)
    parts = data_parts(named.path)
    files = files_digest(part for part in parts if isinstance(part, Path))
    commits = [part.digest() for part in parts if isinstance(part, HubData)]
    form = [type(named.form).__qualname__, value_digest(str(vars(named.form)))]
    output = Output(Path(out), {"data": [files, *commits], "form": form})
    summary = output.earlier()
    if summary is None:
        faults, counts, found = Faults(), Counter[str](), dict[str, Question]()
        for part in parts:
            folder = part.parent if isinstance(part, Path) else Path()
            for line, row in rows_of(part, faults):
                counts["rows"] += 1
                try:
                    if not isinstance(row, dict):
                        raise RowError("a row is an object; write {...}")
                    asked = [question_of(one, folder) for one in named.form.questions(row)]
                except RowError as fault:
                    faults.append(f"{part}:{line}: {fault}")
                    continue
                counts["left_out"] += not asked
                found |= {one.id: one for one in asked}
        if faults:
            raise faults.error()
        if not found:
            raise UserError(f"{named.path}: no row asks anything; check the form of the set")
        summary = {"rows": counts["rows"], "left_out": counts["left_out"], "questions": len(found)}
        output.write((one.row() for one in found.values()), summary)
    print(
        f"{out}: {summary['questions']} questions of {summary['rows']} rows, "
        f"{summary['left_out']} of which ask nothing"
    )
    leave_outcome({"questions": summary["questions"], "left out": summary["left_out"]})

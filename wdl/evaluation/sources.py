"""What the options of ``wdl evaluate`` name: models, and the files of benchmarks."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jsonargparse.typing import register_type

from wdl.config.paths import is_hub_name
from wdl.errors import UserError
from wdl.questions.benchmarks import Benchmark
from wdl.questions.examples import Example, load_examples
from wdl.questions.problems import Problem, load_problems
from wdl.system.digests import value_digest

_LABEL = re.compile(r"[\w.@+=-]+")


class Sources(str):
    """``[NAME=]PATH[,...]``; a path in a YAML file is meant from that file's folder."""


def _sources(value: str) -> Sources:
    """The same with absolute paths, except for what is no path, a name on the hub."""
    return Sources(",".join(_absolute(part) for part in _parts(value)))


def _absolute(part: str) -> str:
    name, path = _split(part)
    if not is_hub_name(path):
        path = os.path.abspath(os.path.expanduser(path))
    return f"{name}={path}" if name else path


def _split(part: str) -> tuple[str, str]:
    """Name, if any, and path of ``[NAME=]PATH``, whose path may be exports/step=8."""
    name, named, path = part.partition("=")
    return (name, path) if named and os.sep not in name else ("", part)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


register_type(Sources, serializer=str, deserializer=_sources)


@dataclass(frozen=True)
class ProblemSet:
    """A benchmark with its problems."""

    benchmark: Benchmark
    problems: list[Problem]
    examples: tuple[Example, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the problems and of how they are compared, whatever file they came from."""
        rules = [self.benchmark.kind, self.benchmark.tolerance]
        return value_digest([*rules, *([p.id, p.question, p.reference] for p in self.problems)])


def parse_models(text: str) -> dict[str, str]:
    """Label and source of each model in ``[LABEL=]SOURCE[,...]``.

    Raises:
        UserError: There is none, or two have the same label.
    """
    models: dict[str, str] = {}
    faults: list[str] = []
    for part in _parts(text):
        label, source = _split(part)
        label = label or Path(source).resolve().name
        if not _LABEL.fullmatch(label):
            faults.append(f"--model {part}: {label!r} cannot name a folder; use letters and digits")
        elif label in models:
            faults.append(f"--model {part}: a second model {label!r}; write LABEL=FOLDER")
        models[label] = source
    if not models:
        faults.append("--model: name at least one folder")
    if faults:
        raise UserError(*faults)
    return models


def load_data(
    benchmarks: Sequence[Benchmark],
    data: str | None,
    shots: int = 0,
    examples: str | None = None,
) -> list[ProblemSet]:
    """The problems of each benchmark, from the files that ``data`` names or from their own.

    With ``shots``, also the examples to draw these from, from ``examples`` or from their own. Both
    say FILE for a single benchmark, NAME=FILE[,NAME=FILE...] for several.
    """
    files = _files(benchmarks, "--data", data)
    shown = _files(benchmarks, "--examples", examples)
    if shown and not shots:
        raise UserError("--examples: none are shown; say how many with --shots, or leave it out")
    return [
        ProblemSet(
            one,
            load_problems(one, files.get(one.name)),
            tuple(load_examples(one, shown.get(one.name))) if shots else (),
        )
        for one in benchmarks
    ]


def _files(benchmarks: Sequence[Benchmark], option: str, text: str | None) -> dict[str, Path]:
    """Files by the name of their benchmark."""
    files: dict[str, Path] = {}
    for part in _parts(text or ""):
        name, file = _split(part)
        if not name and len(benchmarks) > 1:
            raise UserError(f"{option} {part}: say which benchmark's it is, NAME={part}")
        files[name or benchmarks[0].name] = Path(file)
    names = [benchmark.name for benchmark in benchmarks]
    if strangers := [name for name in files if name not in names]:
        raise UserError(*(f"{option} {n}=...: choose from {', '.join(names)}" for n in strangers))
    return files

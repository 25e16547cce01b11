"""Objects that users define in YAML files of their own: benchmarks, protocols, engines, graders."""

from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentParser, ParserError

from wdl.config.parser import check_syntax
from wdl.errors import UserError

T = TypeVar("T")


def read_definition(path: Path, kind: type[T]) -> T:
    """The object of class ``kind`` whose constructor arguments stand in a YAML file.

    Raises:
        UserError: There is no such file, or a key is unknown, missing or of the wrong type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    return kind(**_instantiate(parser, path, _read(path)))


def read_class(path: Path, base: type[T]) -> Callable[[str], T]:
    """A class derived from ``base``, with all arguments but the first, from a YAML file.

    Args:
        path: A file with ``class_path`` and, unless it needs none, ``init_args``.
        base: Its constructor takes one text.

    Raises:
        UserError: There is no such file or class, or an argument is not what the class takes.
    """
    named = read_definition(path, _Class)
    module, _, name = named.class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: there is no {named.class_path} ({error})") from None
    if not (isinstance(found, type) and issubclass(found, base)) or isabstract(found):
        raise UserError(
            f"{path}: {named.class_path} is no {base.__name__}; derive it from {base.__module__}."
            f"{base.__name__} and give it all its methods"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(found, skip={1})
    return partial(found, **_instantiate(parser, path, named.init_args))


@dataclass(frozen=True)
class _Class:
    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    check_syntax([path])
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _instantiate(parser: ArgumentParser, path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Objects from ``values``, whose paths are meant from the folder of ``path``."""
    try:
        with chdir(path.parent):
            return parser.instantiate(parser.parse_object(values)).as_dict()
    except ParserError as error:
        raise UserError(f"{path}: {error}") from None

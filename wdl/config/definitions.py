"""Objects that users define in YAML files of their own: benchmarks, protocols, engines, graders."""

from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, ParserError

from wdl.config.parser import check_syntax
from wdl.errors import UserError

T = TypeVar("T")


def read_definition(path: Path, kind: type[T]) -> T:
    """The object of class ``kind`` whose constructor arguments stand in a YAML file.

    Raises:
        UserError: There is no such file, or a key is unknown, missing or of the wrong type.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    check_syntax([path])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    with _faults_of(path):
        return kind(**parser.instantiate(parser.parse_path(str(path))).as_dict())


def read_class(path: Path, base: type[T], given: int = 1) -> Callable[..., T]:
    """A class derived from ``base``, with all arguments but the first, from a YAML file.

    Args:
        path: A file with ``class_path`` and, unless it needs none, ``init_args``.
        base: What it must be derived from.
        given: How many arguments are the caller's to give: 1, or 0 for all from the file.

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
    parser.add_class_arguments(found, skip={given} if given else set())
    with _faults_of(path), chdir(path.parent):
        return partial(found, **parser.instantiate(parser.parse_object(named.init_args)).as_dict())


@dataclass(frozen=True)
class _Class:
    class_path: str
    init_args: dict[str, Any] = field(default_factory=dict)


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    try:
        yield
    except ParserError as error:
        raise UserError(f"{path}: {error}") from None

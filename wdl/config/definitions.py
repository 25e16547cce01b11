"""Benchmarks and protocols that users define in YAML files of their own."""

from pathlib import Path
from typing import TypeVar

from jsonargparse import ArgumentParser, ParserError

from wdl.errors import UserError

T = TypeVar("T")


def read_definition(path: Path, kind: type[T]) -> T:
    """The object of class ``kind`` whose constructor arguments stand in a YAML file.

    Raises:
        UserError: There is no such file, or a key is unknown, missing or of the wrong type.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.parse_path(str(path))
    except ParserError as error:
        raise UserError(f"{path}: {error}") from None
    return kind(**parser.instantiate(values).as_dict())

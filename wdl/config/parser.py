"""A command line whose faults are one line each, and name the file and line that they stand in.

jsonargparse knows a fault's key alone, which may come from any of several overlaid files.
"""

import argparse
import difflib
import itertools
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import yaml
from jsonargparse import ArgumentParser

from wdl.config.help import PlainHelp
from wdl.config.packaged import find_config, like
from wdl.errors import UserError
from wdl.system.processes import rank

CONFIG = ("--config", "-c")

_parsing = ContextVar("_parsing", default=False)
"""Whether a parser is at work, which calls others for the options of classes."""


class ParserFault(UserError):
    """What jsonargparse says of a command line, before it is explained."""


class PlainParser(ArgumentParser):
    """A parser whose errors are one line each, and that takes no half of an option for it.

    Attributes:
        filled_in: Keys that are filled in from others, which would overwrite them.
    """

    filled_in: ClassVar[dict[str, str]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = {"formatter_class": PlainHelp, **kwargs, "allow_abbrev": False}
        super().__init__(*args, **given)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Report instead of printing the usage."""
        raise ParserFault(message) from ex

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """As of jsonargparse.

        Raises:
            UserError: Says what is wrong, and where.
        """
        if _parsing.get():  # the options of a class, whose faults its own parser explains
            return super().parse_args(args, *more, **kwargs)
        words = with_packaged(sys.argv[1:] if args is None else args)
        check_syntax(config_files(words))
        for key, source in self.filled_in.items():
            _refuse_filled_in(key, source, words)
        token = _parsing.set(True)
        try:
            return super().parse_args(words, *more, **kwargs)
        except ParserFault as fault:
            command = self.prog.replace(" [options]", "")
            command += "" if " " in command else f" {words[0]}"
            explained = explain(fault.faults[0], words, self.known_keys())
            raise UserError(f"{explained}; see {command} --help") from fault
        finally:
            _parsing.reset(token)

    def known_keys(self) -> set[str]:
        """All keys there are, one of which may be meant by a misspelt one."""
        return {key for key in _keys(self) if not key.endswith(".help")}


def _keys(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield action.dest
        if isinstance(action, argparse._SubParsersAction):
            for choice in action.choices.values():
                yield from _keys(choice)


def config_files(args: Sequence[str]) -> list[Path]:
    """The files that ``--config`` names, in order."""
    return [Path(value) for option, value in _options(args) if option in CONFIG]


def with_packaged(args: Sequence[str]) -> list[str]:
    """``args`` with the paths of those of wdl's own configurations that they name."""
    words = list(args)
    for number, (before, word) in enumerate(itertools.pairwise(["", *args])):
        option, equals, named = ("", "", word) if before in CONFIG else word.partition("=")
        if option and not (option in CONFIG and equals):
            continue
        file = find_config(Path(named))
        if file != Path(named):
            words[number] = f"{option}{equals}{file}"
            if rank() == 0:
                print(f"wdl: --config {named}: {file}, which comes with wdl", file=sys.stderr)
    return words


def _options(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word and the next; an option is followed by its value."""
    words = [part for arg in args for part in (arg.split("=", 1) if arg[:2] == "--" else [arg])]
    return itertools.pairwise(words)


def _refuse_filled_in(key: str, source: str, args: Sequence[str]) -> None:
    first, *rest = key.split(".")
    spellings = [[first, *rest], [first, "init_args", *rest]]
    options = {option for option, _ in _options(args)}
    for names in spellings:
        files = [(file, _find(file, names)[0]) for file in config_files(args)]
        places = [f"{file}:{line}: " for file, line in files if line]
        if places or f"--{'.'.join(names)}" in options:
            raise UserError(f"{''.join(places[-1:])}{key}: is filled in; set {source} instead")


def check_syntax(files: Iterable[Path]) -> None:
    """Make sure that the files are there and can be read as YAML.

    Raises:
        UserError: Names the file, and the line of the fault.
    """
    for file in files:
        try:
            if not file.exists():
                if address := re.match(r"([a-z][\w+.-]+):/+(.*)", str(file)):
                    raise UserError(
                        f"--config {address[1]}://{address[2]}: is an address, and configurations "
                        "are files; download it and give the file"
                    )
                raise UserError(f"--config {file}: there is no such file; wdl has {like(file)}")
            if not file.is_file() and not file.is_dir():
                continue  # a pipe can be read but once
            top = yaml.compose(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"--config {file}: cannot be read ({error.strerror})") from error
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UserError(f"{file}:{line}: is not YAML: {error.problem}") from error
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"{file}: is not YAML: {error}") from error
        if not isinstance(top, yaml.MappingNode):
            raise UserError(f"{file}:1: holds no keys; write one KEY: VALUE a line")
        if twice := [f"{file}:{line}: {fault}" for line, fault in _repeated(top)]:
            raise UserError(*twice)


def _repeated(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Lines of keys that their mapping has already, of which YAML would take the last alone."""
    lines: dict[str, int] = {}
    for entry in node.value if isinstance(node, yaml.CollectionNode) else ():
        if isinstance(node, yaml.MappingNode):
            key, entry = entry
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                yield line, f"{name} is there already, in line {lines[name]}; keep one of them"
            lines[name] = line
        yield from _repeated(entry)


_OF_A_CLASS = re.compile(
    r"(?:Parser key \"(?P<key>[\w.]+)\"|(?P<plain>[\w.]+)):\s+Does not validate against any of the "
    r"Union subtypes\s+Subtypes: .*?Errors:\s+- (?:Problem with given class_path '[\w.]+':\s+)?"
    r"(?:(?P<option>Parser key|Option|unrecognized arguments:|the following arguments are "
    r"required:)|(?=[\w.]+: ))(?P<fault>.*)"
    r"\s+- Expected an? (?:<class 'NoneType'>|null)\s+Given value type: "
    r".*?(?:key='(?P<nested>[\w.]+)'.*)?$",
    re.DOTALL,
)
"""What jsonargparse says of an option of a class that a key stands for: model, data."""
_PLAIN = {
    r"(?s)^Parser key \"([\w.]+)\":.*Not a valid subclass of (\w+).*Given value: (.*)$": (
        r"\1: \3 is no class of \2; give options, or class_path and init_args. Got value: \3"
    ),
    r"(?s)^Parser key \"([\w.]+)\":\s+- Expected a path but (\S+) either not .*": (
        r"\1: \2 names no class that fits here; give one that can be imported, MODULE.CLASS, and "
        r"defines what its base asks for"
    ),
    r"<class '(?:\w+\.)*(\w+)'>": r"\1",
    r"NoneType": "null",
    r"an? typing\.Literal\[(.*?)\]": r"one of \1",
    r"Does not validate against any of the Union subtypes\s+Subtypes: \[([\w, ]+)\]\s+Errors:"
    r"(?:\s+- Expected a \w+)+\s+Given value type: \w+\s+Given value: ": (
        r"Expected one of \1. Got value: "
    ),
    r"Parser key \"([\w.]+)\":\s*": r"\1: ",
}
"""What jsonargparse says, as patterns, and what people say."""


def explain(message: str, args: Sequence[str], known: Collection[str]) -> str:
    """A parser's message as one of this project's.

    Args:
        message: What jsonargparse says.
        args: The command line.
        known: All keys there are, one of which may be meant.

    Returns:
        Where the fault stands, as ``FILE:LINE: `` if in a file; what it is; what may be meant.
    """
    message = _unwrapped(message)
    for pattern, plain in _PLAIN.items():
        message = re.sub(pattern, plain, message).strip()
    unknown = re.search(r"does not accept option '([\w.]+)'|^Option '([\w.]+)'", message)
    stated = re.match(r"([\w.]+): ", message)
    key = (unknown[1] or unknown[2]) if unknown else stated[1] if stated else None
    if key is None or (unknown and key in known):  # as an option of a class, then
        return message
    if unknown:
        message = f"{key}: there is no such key"
        if alike := difflib.get_close_matches(key, known, 1):
            message += f" ({alike[0]}?)"
    return _place(key, message, args) + message


def _unwrapped(message: str) -> str:
    """The fault of an option of a class as if it were the command's own: by its whole key."""
    while wrapped := _OF_A_CLASS.match(message):
        key = wrapped["key"] or wrapped["plain"]
        fault = (wrapped["option"] or "") + wrapped["fault"]
        own = re.match(r"(?:Parser key \"([\w.]+)\"|([\w.]+)):\s*(.*)", fault, re.DOTALL)
        unknown = re.match(r"Option '([\w.]+)'|unrecognized arguments: --([\w.]+)", fault)
        missing = re.match(r"the following arguments are required: ([\w.]+)", fault)
        if missing:
            return f'Parser key "{key}.{missing[1]}": there is none; give one'
        if unknown:
            option = wrapped["nested"] or unknown[1] or unknown[2]
            return f"Option '{key}.{option}' is not accepted"
        if not own:
            break
        message = f'Parser key "{key}.{own[1] or own[2]}": {own[3]}'
    return message


def _place(key: str, message: str, args: Sequence[str]) -> str:
    """Where ``key`` has the value that ``message`` is about, if that is in a file for certain."""
    stated = re.search(r"(?:Got|Given) value: (.*)$", message)
    options = list(_options(args))
    if stated and (f"--{key}", stated[1]) in options:
        return ""
    first, *rest = key.split(".")
    spellings = [first, *rest], [first, "init_args", *rest]
    places = [(file, *_find(file, names)) for file in config_files(args) for names in spellings]
    places = [place for place in places if place[1]]
    exact = [place for place in places if stated and place[2] == stated[1]]
    on_the_command_line = any(f"{option}.".startswith(f"--{key}.") for option, _ in options)
    if not exact and (len(places) > 1 or on_the_command_line):
        return ""
    return "".join(f"{file}:{line}: " for file, line, _ in (exact or places)[-1:])


def _find(file: Path, names: Sequence[str]) -> tuple[int, str | None]:
    """Line of a nested key in a file of YAML, 0 if it is not there, and its value if plain."""
    if not file.is_file():  # a pipe can be read but once
        return 0, None
    node, line = yaml.compose(file.read_text(encoding="utf-8")), 0
    for name in names:
        entries = node.value if isinstance(node, yaml.MappingNode) else []
        entry = next(((key, value) for key, value in entries if key.value == name), None)
        if entry is None:
            return 0, None
        key, node = entry
        line = key.start_mark.line + 1
    return line, node.value if isinstance(node, yaml.ScalarNode) else None

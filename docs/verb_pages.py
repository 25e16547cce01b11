"""A page for every verb, made of its own ``--help``, so that it lists what there is."""

import io
import os
import re
from contextlib import redirect_stdout
from pathlib import Path
from unittest.mock import patch

from wdl.branches.lora import Lora
from wdl.cli import VERBS, main
from wdl.config.parser import PlainParser

OF_FIT = {"--model.lora.help": Lora}
"""Classes in those that a fit chooses, whose help it does not show by itself."""
OTHER_METHOD = {
    "model": "wdl.training.preference.PreferenceModule",
    "data": "wdl.data.preference.PreferenceDataModule",
}
SAID = re.compile(
    r"(?P<text>.*?) ?\((?:required|(?:required, )?type: (?P<type>.*?)"
    r"(?:, default: (?P<default>.*?))?(?:, known subclasses: .*)?)\)"
)
"""An option's help, as jsonargparse ends it."""
NESTED = re.compile(r"--\S+\.help")
"""The help of a class; with another word behind it, of any class that fits."""
NO_OPTIONS = ("-h, --help", "--print_config", "[applied", "Path to a configuration file.")
TITLES = {"options": "In general", "positional arguments": "Arguments"}
ROLE = re.compile(r":\w+:`~?([^`]+)`")

Groups = dict[str, dict[str, str]]
"""What is said of each option, by option, by the title of its group."""


def write_verb_pages(folder: Path) -> None:
    """Write the pages and their list; what has not changed keeps its time, for Sphinx to see."""
    folder.mkdir(exist_ok=True)
    names = {verb: verb.replace(" ", "-") for verb in VERBS}
    listed = "".join(f"wdl {verb} <{name}>\n" for verb, name in names.items())
    pages = {f"{name}.md": _page(verb) for verb, name in names.items()}
    pages["index.md"] = f"# Verbs\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}```\n"
    for file in {*folder.glob("*.md")} - {folder / name for name in pages}:
        file.unlink()
    for name, text in pages.items():
        file = folder / name
        if not file.is_file() or file.read_text() != text:
            file.write_text(text)


def _page(verb: str) -> str:
    """The options of a verb, those of classes in it, and for a fit those of the other method."""
    words = verb.split()
    groups = _groups(_help(*words, "--help"))
    parts = [f"# wdl {verb}", f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.", *_tables(groups)]
    for option in filter(NESTED.fullmatch, [one for group in groups.values() for one in group]):
        fits = verb in ("fit", "validate", "plan")
        text = _help_of(OF_FIT[option], option) if fits else _help(*words, option)
        parts += _tables(_groups(text), f" (`{option.removesuffix('.help')}`)")
    if verb == "fit":
        for key, name in OTHER_METHOD.items():
            parts += _tables(_groups(_help(verb, f"--{key}.help", name)), f" (`--{key} {name}`)")
    return "\n\n".join(parts) + "\n"


def _help(*args: str) -> str:
    """What the command line prints, with each option's help in one line."""
    printed = io.StringIO()
    with patch.dict(os.environ, COLUMNS="100000"), redirect_stdout(printed):
        try:
            main(args)
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"wdl {' '.join(args)} ended with {end.code}") from end
    return printed.getvalue()


def _help_of(cls: type, option: str) -> str:
    """The same of a class."""
    parser = PlainParser(usage="-", add_help=False)
    parser.add_class_arguments(cls, option.removeprefix("--").removesuffix(".help"))
    with patch.dict(os.environ, COLUMNS="100000"):
        return str(parser.format_help())


def _groups(text: str) -> Groups:
    """The options of a help."""
    groups: Groups = {}
    title: list[str] = []
    option = ""
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if not line:
            title = []
        elif not indent:
            title = [line] if title and title[-1].endswith(":") else [*title, line]
        elif indent == 2:
            option, _, said = line.strip().partition("  ")
            groups.setdefault(" ".join(title).rstrip(":"), {})[option] = said.strip()
        else:
            groups[" ".join(title).rstrip(":")][option] += line.strip()
    return groups


def _tables(groups: Groups, of: str = "") -> list[str]:
    """Each group as a heading and a table."""
    parts: list[str] = []
    for title, options in groups.items():
        rows = [_row(option, said) for option, said in options.items() if _is_option(option, said)]
        if rows:
            head = "| option | type | default | meaning |\n|---|---|---|---|"
            parts += [f"## {_code(TITLES.get(title, title))}{of}", "\n".join([head, *rows])]
    return parts


def _is_option(option: str, said: str) -> bool:
    return not NESTED.match(option) and not any(one in f"{option} {said}" for one in NO_OPTIONS)


def _row(option: str, said: str) -> str:
    found = SAID.fullmatch(said)
    text, kind, default = found.group("text", "type", "default") if found else (said, None, None)
    cells = [
        ", ".join(f"`{name.split()[0]}`" for name in option.split(", ")),
        f"`{kind}`" if kind else "",
        f"`{default}`" if default else "required" * (found is not None),
        _code(text),
    ]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _code(text: str) -> str:
    """Docstrings' marks of code as those of Markdown."""
    return ROLE.sub(r"`\1`", text).replace("``", "`")

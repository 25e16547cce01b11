"""The documentation: the site builds without a warning, and what the pages show is true."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from importlib import invalidate_caches
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS, REPOSITORY
from sphinx.cmd.build import build_main

from wdl.cli import VERBS, function_parser, main
from wdl.data.preference import PreferenceSummary
from wdl.data.preference_schemas import parse_preferences
from wdl.data.rows import RowError
from wdl.data.schemas import parse_row
from wdl.losses.preference import Preference
from wdl.metrics.dynamics import LOSSES, curves
from wdl.metrics.preference import PreferenceMeans
from wdl.questions.problems import parse_problem
from wdl.rounds.pool import question_of

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))
FLAGS = re.DOTALL | re.MULTILINE
NAMED = re.compile(r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```$", FLAGS)
SHELL = re.compile(r"^```(?:console|bash)\n(.*?)^```|^    (wdl [^\n]*(?:\\\n[^\n]*)*)", FLAGS)
JSON = re.compile(r'^```json title="(\S+)"\n(.*?)^```$', FLAGS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    assert build_main(["-q", "-W", "--keep-going", str(DOCS), str(folder)]) == 0
    return folder


def test_every_verb_has_a_page_with_its_options(site: Path) -> None:
    pages = {verb: (site / f"verbs/{verb.replace(' ', '-')}.html").read_text() for verb in VERBS}
    shown = {
        verb: re.findall(r'<span class="pre">(--[\w.-]+)', page) for verb, page in pages.items()
    }
    assert all(shown[verb] for verb in VERBS if verb != "compare")
    assert {"--model.lam", "--model.lora.rank", "--model.objective.beta"} <= {*shown["fit"]}
    assert "--teacher.url" in shown["grade"]
    assert ">required<" in pages["evaluate"] and "(type:" not in "".join(pages.values())


def test_every_page_is_in_the_contents(site: Path) -> None:
    front = (site / "index.html").read_text()
    missing = [page.stem for page in PAGES if f'href="{page.stem}.html"' not in front]
    assert missing == ["index"]  # as "#"


def test_formulas_are_mathml_and_nothing_comes_from_elsewhere(site: Path) -> None:
    method = (site / "method.html").read_text()
    assert method.count("<math ") > 0 and "\\frac" not in method
    for file in site.rglob("*.html"):
        loaded = re.findall(
            r'(?:<script|<link|<img|<iframe)[^>]*?(?:src|href)="(\w+:)?//', file.read_text()
        )
        assert not loaded, file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_also_hold_in_the_repository(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (DOCS / target).is_file() and "verbs/" not in target, target


def written(text: str) -> None:
    """Write the files that a page shows to the current folder, beside the configurations."""
    for name, content in NAMED.findall(text):
        Path(name).write_text(content)
        sys.modules.pop(Path(name).stem, None)
    invalidate_caches()
    Path("configs").symlink_to(CONFIGS)


def commands(text: str) -> list[list[str]]:
    """The words of every command of a page."""
    blocks = SHELL.findall(text)
    lines = [line for block in blocks for line in "".join(block).replace("\\\n", " ").splitlines()]
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [one for one in words if one]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_the_real_ones(
    page: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = page.read_text()
    written(text)
    monkeypatch.setattr(sys, "path", [*sys.path, ""])
    ours = [words[words.index("wdl") + 1 :] for words in commands(text) if "wdl" in words]
    targets = [words[1] for words in commands(text) if words[0] == "make"]
    makefile = (REPOSITORY / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)
    for words in [words for words in ours if words[:2] == ["pipeline", "status"]]:
        ours.remove(words)
        function_parser("pipeline status")[1].parse_args(words[2:])
    monkeypatch.setattr(sys, "stdin", StringIO(json.dumps(ours)))
    main(["--parse"])
    parsed = json.loads(capsys.readouterr().out)
    faults = {
        " ".join(words): one["faults"]
        for words, one in zip(ours, parsed, strict=True)
        if "faults" in one
    }
    assert not faults


@pytest.mark.parametrize(
    ("name", "parse"),
    [
        ("rows.jsonl", parse_row),
        ("pairs.jsonl", parse_preferences),
        ("pictures.jsonl", parse_row),
        ("problems.jsonl", lambda row: parse_problem(row, "0")),
        ("pool.jsonl", lambda row: question_of(row, Path())),
    ],
)
def test_rows_are_read(name: str, parse: Callable[[Any], Any]) -> None:
    rows = dict(JSON.findall((DOCS / "data.md").read_text()))[name].splitlines()
    assert all(parse(json.loads(row)) for row in rows)
    with pytest.raises(RowError):
        parse({"no": "question"})


def test_rows_are_refused_in_these_words() -> None:
    rows = re.findall(r"^\| `(\{.*\})` \| (.*) \|$", (DOCS / "data.md").read_text(), re.MULTILINE)
    assert len(rows) > 5
    for row, line in rows:
        with pytest.raises(RowError) as fault:
            parse_row(json.loads(row))
        assert str(fault.value) == line.replace("\\<", "<")


def test_the_charts_are_those_of_the_code() -> None:
    text = (DOCS / "charts.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| ([\w, ]+) \|", text, re.MULTILINE))
    assert {tag: tuple(of.split(", ")) for tag, of in listed.items()} == curves(True, True)
    tags = {
        tag
        for line in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        for tag in re.findall(r"`(.+?)`", line)
    }
    assert {*PreferenceMeans(Preference()).names, *LOSSES.values()} <= tags
    assert all(
        f"`{one.name}`" in text.replace("selection/", "") for one in fields(PreferenceSummary)
    )


def test_the_model_of_the_first_run_answers(
    pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs/first/latest").mkdir(parents=True)
    Path("runs/first/latest/strong").symlink_to(pair[0])
    code = re.search(r"^```python\n(.*?)^```", (DOCS / "index.md").read_text(), FLAGS)
    assert code is not None
    exec(code[1], {})
    assert capsys.readouterr().out


def test_an_engine_and_a_grader_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    text = (DOCS / "own-parts.md").read_text()
    written(text)
    (words,) = commands(text)
    main(words[1:])
    record = json.loads(Path("runs/parrot/polly/arithmetic.json").read_text())
    assert (record["results"]["correct"], record["results"]["answers"]) == (20, 20)


def test_the_pipeline_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "rounds.md").read_text()
    written(text)
    main(commands(text)[0][1:])
    printed = capsys.readouterr().out
    assert all(f"{stage}-2" in printed for stage in ("sample", "grade", "keep", "train", "renew"))

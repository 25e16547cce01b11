"""The documentation's site: it builds without a warning, and needs nothing from elsewhere."""

import re
from pathlib import Path

import pytest
from conftest import REPOSITORY
from sphinx.cmd.build import build_main

from wdl.cli import VERBS

DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.glob("*.md"))


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

"""The page of results, clicked through in a real browser from real files of ``wdl evaluate``."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CONFIGS
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from wdl.cli import main
from wdl.evaluation.compare import compare

PROBLEMS = 70
HOSTILE = [
    "</script><script>document.title = 'taken'</script>",
    "<img src=x onerror=\"document.title = 'taken'\">",
    "<!-- <script> ]]> &lt;b&gt; {{data}} {{policy}}",
    "line\u2028paragraph\u2029end",
    "lone \ud800 surrogate",
    "a NUL \0 here",
    "\u202eright to left\u202c שלום",
]
LONG = "x" * 1_000_000


def evaluate(folder: Path, models: str = "weak,strong") -> Path:
    """Run the command on the tiny pair; what is there already is not generated again."""
    data, protocol = folder / "sums.jsonl", folder / "short.yaml"
    rows = (CONFIGS / "tiny" / "heldout.jsonl").read_text().splitlines(keepends=True)
    data.write_text("".join(rows[:PROBLEMS]))
    protocol.write_text("name: short\nmax_new_tokens: 64\n")  # which cuts some off
    sources = ",".join(f"{name}={CONFIGS / 'tiny' / name}" for name in models.split(","))
    out = folder / "out"
    main(
        [
            *("evaluate", "--model", sources, "--benchmarks", "arithmetic", "--data", str(data)),
            *("--protocol", str(protocol), "--out", str(out)),
        ]
    )
    return out


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture
def out(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of the results that a test may change."""
    shutil.copytree(evaluated.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def answers(out: Path, model: str) -> list[dict[str, Any]]:
    lines = (out / model / "arithmetic.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def change(out: Path, model: str, changes: dict[int, dict[str, Any]]) -> None:
    """Edit filed answers, by number, and have the command make the page of them again."""
    rows = [row | changes.get(n, {}) for n, row in enumerate(answers(out, model))]
    file = out / model / "arithmetic.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    evaluate(out.parent)


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    options = ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--window-size=1200,900"):
        options.add_argument(option)
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options, Service(str(shutil.which("chromedriver"))))
    yield driver
    driver.quit()


class Page:
    """The page as a person uses it."""

    def __init__(self, browser: Chrome, file: Path, filters: str = "") -> None:
        self.browser = browser
        browser.get("about:blank")
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(f"{file.absolute().as_uri()}{filters}")
        WebDriverWait(browser, 20).until(
            lambda _: self.script("return document.body.dataset.ready === ''")
        )

    def script(self, source: str) -> Any:
        return self.browser.execute_script(source)

    def texts(self, selector: str) -> list[str]:
        return [one.text for one in self.browser.find_elements(By.CSS_SELECTOR, selector)]

    def count(self) -> str:
        return self.browser.find_element(By.ID, "count").text

    def choose(self, name: str, title: str) -> None:
        """Choose from a list, and wait until the address has followed."""
        before = self.browser.current_url
        Select(self.browser.find_element(By.NAME, name)).select_by_visible_text(title)
        WebDriverWait(self.browser, 5).until(lambda browser: browser.current_url != before)

    def search(self, text: str) -> None:
        field = self.browser.find_element(By.NAME, "q")
        field.clear()
        field.send_keys(text)
        WebDriverWait(self.browser, 5).until(lambda _: self.script("return state.q") == text)

    def open(self, number: int) -> list[str]:
        """Click on an answer; the completions that then stand there."""
        lines = self.browser.find_elements(By.CSS_SELECTOR, "#list > li")
        lines[number].find_element(By.TAG_NAME, "summary").click()
        WebDriverWait(self.browser, 5).until(
            lambda _: lines[number].find_elements(By.CSS_SELECTOR, ".pane pre")
        )
        panes = f"document.querySelectorAll('#list > li')[{number}].querySelectorAll('.pane pre')"
        # as JSON, since the driver's own messages have no place for half a surrogate
        texts = f"return JSON.stringify([...{panes}].map((one) => one.textContent))"
        return json.loads(self.script(texts))

    def complaints(self) -> list[Any]:
        """Of the console, where faults of scripts and of the policy appear."""
        return self.browser.get_log("browser")

    def requests(self) -> set[str]:
        """Addresses that were asked for."""
        messages = (
            json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance")
        )
        return {
            message["params"]["request"]["url"].split("#")[0]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        }


def test_shows_what_the_summary_says(browser: Chrome, evaluated: Path) -> None:
    page = Page(browser, evaluated / "report.html")
    assert browser.title == "weak, strong – graded answers"
    found = json.loads((evaluated / "summary.json").read_text())["models"]["strong"]["arithmetic"]
    low, high = (100 * end for end in found["results"]["interval"])
    (row,) = (text for text in page.texts("#results tbody tr") if "strong" in text)
    accuracy = f"{100 * found['results']['accuracy']:.1f} % {low:.1f} – {high:.1f} %"
    assert " ".join(row.split()).startswith(f"arithmetic strong {accuracy} {PROBLEMS} {PROBLEMS}")
    assert {"max_new_tokens", "system_prompt", "seed"} <= set(page.texts("#made dt"))
    assert page.count() == f"{2 * PROBLEMS} of {2 * PROBLEMS} answers, page 1 of 3"
    assert not page.complaints()
    assert page.requests() == {(evaluated / "report.html").as_uri()}


def test_comparison_is_that_of_the_command(browser: Chrome, evaluated: Path) -> None:
    folders = [str(evaluated / model) for model in ("weak", "strong")]
    compare(folders, out="x.json")
    row = json.loads(Path("x.json").read_text())["benchmarks"]["arithmetic"]
    page = Page(browser, evaluated / "report.html")
    (text,) = page.texts("#compared tbody tr")
    low, high = (100 * end for end in row["interval"])
    assert f"+{100 * row['difference']:.1f} %" in text and f"{low:+.1f} to {high:+.1f} %" in text
    before = browser.current_url
    browser.find_element(By.LINK_TEXT, str(len(row["gained"]))).click()
    assert browser.current_url != before
    assert page.count().startswith(f"{len(row['gained'])} of")
    other = Page(browser, Path("x.html"), "#change=gained")
    assert other.count().startswith(f"{len(row['gained'])} of")
    assert browser.title == f"{', '.join(folders)} – graded answers"


def test_filters(browser: Chrome, out: Path) -> None:
    change(out, "strong", {3: {"status": "could_not_grade", "detail": "timed out"}})
    page = Page(browser, out / "report.html")
    weak, strong = answers(out, "weak"), answers(out, "strong")
    rows = [*weak, *strong]
    right = [
        [one["status"] == "correct" for one in both] for both in zip(weak, strong, strict=True)
    ]
    for name, title, expected in (
        ("change", "▲ gained", right.count([False, True])),
        ("change", "▼ lost", right.count([True, False])),
        ("change", "all", len(rows)),
        ("status", "✂ cut off", sum(one["status"] == "cut_off" for one in rows)),
        ("status", "✗ wrong", sum(one["status"] == "wrong" for one in rows)),
        ("status", "? ungraded", 1),
    ):
        page.choose(name, title)
        assert page.count().startswith(f"{expected} of {len(rows)} answers"), title
    assert len(page.open(0)) == 2
    assert "timed out" in page.texts(".pane")[1]
    page.choose("status", "all")
    page.choose("model", "strong")
    assert page.count().startswith(f"{len(strong)} of")
    page.choose("beside", "nothing")
    assert page.open(0) == [strong[0]["completion"]]
    page.search(strong[7]["question"].upper())
    assert page.count() == f"1 of {len(rows)} answers"


def test_the_address_brings_the_view_back(browser: Chrome, evaluated: Path) -> None:
    page = Page(browser, evaluated / "report.html")
    page.choose("model", "strong")
    browser.find_element(By.ID, "next").click()
    page.open(2)
    view = page.count(), page.texts("#list .line"), page.texts(".pane pre")
    filters = browser.current_url.partition("#")[2]
    again = Page(browser, evaluated / "report.html", f"#{filters}")
    WebDriverWait(browser, 5).until(lambda _: again.texts(".pane pre"))
    assert (again.count(), again.texts("#list .line"), again.texts(".pane pre")) == view
    assert Select(browser.find_element(By.NAME, "model")).first_selected_option.text == "strong"
    assert "page 2 of 2" in again.count()
    strange = Page(browser, evaluated / "report.html", "#model=nobody&page=-7&open=x&q=(")
    assert strange.count().startswith("0 of ")
    assert not strange.complaints()


def test_what_models_write_is_text(browser: Chrome, out: Path) -> None:
    fields = ("completion", "answer", "detail", "question", "reference", "finish_reason")
    changes = {n: dict.fromkeys(fields, text) for n, text in enumerate(HOSTILE)}
    changes[len(HOSTILE)] = {"completion": LONG}
    for model in ("weak", "strong"):
        change(out, model, changes)
    page = Page(browser, out / "report.html", "#model=strong")
    for number, text in enumerate([*HOSTILE, LONG]):
        assert page.open(number)[1] == text.replace("\0", "␀"), text[:60]
    assert page.script("return document.querySelectorAll('img').length") == 0
    assert "taken" not in browser.title
    assert not page.complaints()
    assert page.requests() == {(out / "report.html").as_uri()}


def test_the_policy_forbids_other_scripts(browser: Chrome, evaluated: Path) -> None:
    page = Page(browser, evaluated / "report.html")
    page.script(
        "const one = document.createElement('script');"
        "one.textContent = \"document.title = 'taken'\";"
        "document.body.append(one); fetch('https://example.org').catch(() => {});"
    )
    assert browser.title != "taken"
    assert any("Content Security Policy" in entry["message"] for entry in page.complaints())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen(browser: Chrome, evaluated: Path, scheme: str) -> None:
    """Nothing has to be scrolled sideways, and text stands out from what is behind it."""
    size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    try:
        page = Page(browser, evaluated / "report.html", "#change=gained")
        page.open(0)
        wide = (
            "return [...document.querySelectorAll('html, .scroll, pre, .pane')]"
            ".filter((one) => one.scrollWidth > one.clientWidth).map((one) => one.outerHTML)"
        )
        assert page.script("return document.documentElement.clientWidth") == 360
        assert page.script(wide) == []
        shade = "return getComputedStyle(document.body).{}.match(/\\d+/g).map(Number)"
        ink, paper = (sum(page.script(shade.format(of))) for of in ("color", "backgroundColor"))
        assert (ink < 200 and paper > 600) if scheme == "light" else (ink > 600 and paper < 200)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_one_model_is_compared_with_none(browser: Chrome, out: Path) -> None:
    evaluate(out.parent, "strong")
    page = Page(browser, out / "report.html")
    assert not browser.find_element(By.ID, "compared").is_displayed()
    assert page.open(0) == [answers(out, "strong")[0]["completion"]]
    assert not browser.find_element(By.NAME, "change").is_enabled()
    assert not page.complaints()


def test_same_results_same_bytes(out: Path) -> None:
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    evaluate(out.parent)
    assert (out / "report.html").read_bytes() == before


def test_answers_that_are_not_there_are_named(browser: Chrome, out: Path) -> None:
    """Of results that were made long ago and tidied up since."""
    (out / "strong" / "arithmetic.jsonl").unlink()
    rows = (out / "weak" / "arithmetic.jsonl").read_text().splitlines()
    (out / "weak" / "arithmetic.jsonl").write_text("\n".join(["{", *rows[1:]]))
    evaluate(out.parent)
    page = Page(browser, out / "report.html")
    notes = " ".join(page.texts("#results .notes li"))
    assert "strong/arithmetic.jsonl: its answers are not in this page" in notes
    assert "weak/arithmetic.jsonl:1: it is no graded answer" in notes
    assert "strong is not compared with weak" in notes
    assert page.count().startswith(f"{PROBLEMS - 1} of {PROBLEMS - 1}")

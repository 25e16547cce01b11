"""The picture of the README: the page of a small evaluation, as a browser shows it.

    python docs/pictures.py

asks the tiny pair in configs/tiny and writes docs/report.png; it needs Debian's chromium-driver.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from wdl.cli import main

DOCS = Path(__file__).parent
TINY = DOCS.parent / "configs" / "tiny"
SIZE = (1180, 1440)
COLOURS = 128


def evaluate(folder: Path) -> Path:
    """The page of both models of the tiny pair on its held-out problems."""
    protocol = folder / "short.yaml"
    protocol.write_text("name: short\nmax_new_tokens: 128\n")
    models = f"weak={TINY / 'weak'},strong={TINY / 'strong'}"
    options = ["--data", str(TINY / "heldout.jsonl"), "--protocol", str(protocol)]
    options += ["--out", str(folder / "out")]
    main(["evaluate", "--model", models, "--benchmarks", "arithmetic", *options])
    return folder / "out" / "report.html"


def photograph(page: Path, picture: Path) -> None:
    """Write what a browser shows of the page, with one gained answer opened."""
    options = ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(option)
    browser = Chrome(options, Service(shutil.which("chromedriver")))
    try:
        size = {"width": SIZE[0], "height": SIZE[1], "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(f"{page.as_uri()}#change=gained&open=1")
        shown = "return document.querySelectorAll('.pane').length"
        WebDriverWait(browser, 10).until(lambda _: browser.execute_script(shown) == 2)
        browser.save_screenshot(str(picture))
    finally:
        browser.quit()
    with Image.open(picture) as image:
        image.convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        photograph(evaluate(Path(folder)), DOCS / "report.png")

"""The pictures of the README and the site, made with the tiny pair in configs/tiny.

    python docs/pictures.py

writes docs/report.png, the page of a small evaluation as a browser shows it (which needs Debian's
chromium-driver), and docs/dynamics.png, what the logits of a joint run looked like.
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import matplotlib.pyplot as plt
from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wdl.cli import main

DOCS = Path(__file__).parent
TINY = DOCS.parent / "configs" / "tiny"
SIZE = (1180, 1440)
COLOURS = 128
CURVES = {
    "margin": ("weak", "strong", "mixed"),
    "entropy": ("weak", "strong", "mixed"),
    "amplification": ("all", "saturated"),
}


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


def train(folder: Path) -> Path:
    """The run of ``configs/joint.yaml``, with dynamics of every fifth step."""
    options = ["--runs", str(folder), "--name", "joint", "--model.dynamics.every_n_steps", "5"]
    options += ["--data.cache", str(folder / "cache")]
    options += ["--evaluation.benchmark", "null", "--evaluation.sft_control", "false"]
    main(["fit", "--config", str(TINY.parent / "joint.yaml"), *options])
    return folder / "joint" / "version_0"


def draw(run: Path, picture: Path) -> None:
    """Write what a run has recorded in training."""
    figure, panels = plt.subplots(1, len(CURVES), figsize=(11, 3.2), layout="constrained")
    for axes, (quantity, curves) in zip(panels, CURVES.items(), strict=True):
        for of in curves:
            of_branch = (run / "dynamics" / of).is_dir()
            events = EventAccumulator(str(run / "dynamics" / of if of_branch else run))
            events.Reload()
            tag = f"dynamics/{quantity}" if of_branch else f"dynamics/{quantity}/{of}"
            points = events.Scalars(tag)
            axes.plot([one.step for one in points], [one.value for one in points], label=of)
        axes.set(xlabel="optimizer step", title=quantity)
        axes.legend()
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        photograph(evaluate(Path(folder)), DOCS / "report.png")
        draw(train(Path(folder)), DOCS / "dynamics.png")

"""``make gpu`` at its smallest, so that it runs on the day when a GPU is at hand."""

import re
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY

GPU = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), "--smallest", "--out", "gpu.md"]


def test_every_part_ends_well_and_leaves_its_table() -> None:
    # the tests that it runs beside these are run anyway
    parts = ["fit", "steps", "mixed", "preference"]
    subprocess.run([*GPU, "--only", *parts], check=True)
    text = Path("gpu.md").read_text()
    assert text.count("\n## ") == len(parts)
    assert re.findall(r"- ZeRO-2, (\w+): exit code 0", text) == ["fit", "resume", "export"]
    tables = re.findall(r"^(\|.*\|)\n\|[-|]+\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    assert len(tables) == len(parts) - 1
    for head, rows in tables:
        for row in rows.splitlines():
            assert row.count("|") == head.count("|")
            assert re.search(r"\d", row)


def test_a_part_without_time_says_so_and_the_rest_is_tried() -> None:
    ended = subprocess.run([*GPU, "--only", "steps", "mixed", "--minutes", "0"], check=False)
    assert ended.returncode == 1
    assert re.findall(r"- (\S+): no time was left", Path("gpu.md").read_text()) == [
        "step.py",
        "loss.py",
    ]

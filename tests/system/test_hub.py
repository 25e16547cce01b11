"""A hub that is out of reach: one line at once, and what is cached is found all the same."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from wdl.system.hub import hub_fault

NOBODY = "http://127.0.0.1:9"
LOAD = """
import sys
from wdl.branches.sources import load_config
from wdl.data.rows import data_parts
from wdl.errors import UserError
print(load_config("mine/cached").model_type)
for ask in (lambda: load_config("mine/other"), lambda: data_parts("mine/data")[0].digest()):
    try:
        ask()
    except UserError as error:
        print(error)
"""


@pytest.fixture(autouse=True)
def _asks_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    hub_fault.cache_clear()


def test_what_is_cached_is_found_and_the_rest_is_told(architecture: Path, tmp_path: Path) -> None:
    model = tmp_path / "hub" / "models--mine--cached"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("a" * 40)
    shutil.copytree(architecture, model / "snapshots" / ("a" * 40))
    ours = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": NOBODY, "PYTHONWARNINGS": "ignore"}
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"} | ours
    command = [sys.executable, "-c", LOAD]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    kind, other, data = child.stdout.splitlines()
    assert kind == "qwen3"
    assert other.startswith("mine/other: its configuration is not in the hub's cache")
    assert "127.0.0.1 cannot be reached: Connection refused" in other
    assert data.startswith("mine/data: there is no such file") and "cannot be reached" in data
    assert "Retry" not in child.stderr


def test_a_hub_that_answers_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert hub_fault() is None
    assert not constants.HF_HUB_OFFLINE


def test_behind_a_proxy_the_libraries_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", NOBODY)
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    assert hub_fault() is None
    hub_fault.cache_clear()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert hub_fault() == "127.0.0.1 cannot be reached: Connection refused"
    assert constants.HF_HUB_OFFLINE and os.environ["HF_HUB_OFFLINE"] == "1"


def test_who_is_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_fault() == "HF_HUB_OFFLINE is set"

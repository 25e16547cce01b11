"""Processes that end with those that started them."""

import os
import subprocess
import sys

import pytest

from wdl.system.outcome import VARIABLE
from wdl.system.processes import environment_of_child, stay_with_first_rank


def test_no_child_takes_itself_for_a_rank_or_a_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = {
        **{"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1"},
        **{"TORCHELASTIC_RUN_ID": "a", "SLURM_PROCID": "3", "GROUP_WORLD_SIZE": "1"},
        VARIABLE: "a/file",
    }
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FRANK", "stays")
    left = environment_of_child()
    assert not left.keys() & ranks.keys() and left["FRANK"] == "stays"


@pytest.mark.parametrize(
    ("parent", "code"), [(str(os.getpid()), 0), ("1", 1)], ids=["alive", "gone"]
)
def test_a_rank_whose_first_is_gone_does_not_start(parent: str, code: int) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "from wdl.system.processes import *; stay_with_first_rank()"],
        env={**os.environ, "LOCAL_RANK": "1", "WDL_PARENT": parent},
        capture_output=True,
    )
    assert child.returncode == code


def test_the_first_rank_is_remembered() -> None:
    stay_with_first_rank()
    assert os.environ["WDL_PARENT"] == str(os.getpid())

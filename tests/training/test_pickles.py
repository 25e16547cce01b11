"""Checkpoints that would run code are refused before anything opens them."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from wdl.errors import UserError
from wdl.training.pickles import refuse_foreign_code


class Attack:
    """Leaves a mark on the disk when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def test_tensors_and_containers_are_fine(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(2)}, "loops": [1, {"b": None}]}, tmp_path / "a.ckpt")
    refuse_foreign_code([tmp_path / "a.ckpt"])


def test_every_file_that_would_run_code_is_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.save({"state": Attack(tmp_path / "mark")}, tmp_path / f"{name}.pt")
    with pytest.raises(UserError) as error:
        refuse_foreign_code([tmp_path / "a.pt", tmp_path / "b.pt"])
    assert [line.split(":")[0] for line in error.value.lines()] == [
        str(tmp_path / "a.pt"),
        str(tmp_path / "b.pt"),
    ]
    assert "posix.mkdir" in str(error.value)
    assert not (tmp_path / "mark").exists()


def test_what_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    """A bare pickle, which torch would open in its old format."""
    file = tmp_path / "old.ckpt"
    file.write_bytes(pickle.dumps(Attack(tmp_path / "mark")))
    with pytest.raises(UserError, match="no checkpoint of torch"):
        refuse_foreign_code([file])
    assert not (tmp_path / "mark").exists()

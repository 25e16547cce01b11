"""Which checkpoints are complete, which one a run goes on from, and what is never opened."""

import os
import resource
import shutil
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from ranks import Case, run
from test_pickles import Attack

from wdl.cli import main
from wdl.errors import UserError
from wdl.training.checkpoints import (
    TAG,
    Manifest,
    check_checkpoint,
    defect,
    files_of,
    read_state,
    read_weights,
    write_manifest,
)
from wdl.training.run_folder import newest_checkpoint


def write(run: Path, name: str, seconds: int, folder: bool = True) -> Path:
    """A small checkpoint, written at a given time."""
    checkpoint = run / name
    file = checkpoint / TAG / "mp_rank_00_model_states.pt" if folder else checkpoint
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": {"a": torch.ones(3)}, "epoch": 1}, file)
    if folder:
        (checkpoint / "latest").write_text(TAG)
        seal(checkpoint, 2)
        file = checkpoint / "manifest.json"
    os.utime(file, (seconds, seconds))
    return checkpoint


def seal(checkpoint: Path, stage: int) -> None:
    write_manifest(checkpoint, Manifest(stage, 1, files_of(checkpoint, 0)))


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def test_no_run_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None


def test_the_newest_of_all_versions(tmp_path: Path) -> None:
    write(tmp_path, "version_9/checkpoints/a.ckpt", 100)
    newest = write(tmp_path, "version_10/checkpoints/b.ckpt", 300)
    write(tmp_path, "version_11/checkpoints/c.ckpt", 200, folder=False)
    assert newest_checkpoint(tmp_path) == newest
    # as Lightning writes one that is named after a metric
    named = write(tmp_path, "version_9/checkpoints/step=3-val/loss=0.597.ckpt", 400)
    assert newest_checkpoint(tmp_path) == named


def test_one_that_was_being_replaced_counts(tmp_path: Path) -> None:
    old = write(tmp_path, "version_0/checkpoints/.old.last.ckpt", 100)
    (tmp_path / "version_0/checkpoints/.last.ckpt.partial").mkdir()
    assert newest_checkpoint(tmp_path) == old


@pytest.mark.parametrize("folder", [False, True])
def test_a_broken_one_does_not_count(tmp_path: Path, folder: bool) -> None:
    whole = write(tmp_path, "version_0/checkpoints/a.ckpt", 100)
    broken = write(tmp_path, "version_0/checkpoints/b.ckpt", 200, folder)
    assert newest_checkpoint(tmp_path) == broken
    cut_short(next(broken.rglob("*.pt"), broken))
    with pytest.warns(UserWarning, match=r"b\.ckpt is not complete .*: looking for an earlier one"):
        assert newest_checkpoint(tmp_path) == whole
    fault = r"model_states\.pt has \d+ bytes instead of \d+" if folder else "cut short"
    with pytest.raises(UserError, match=rf"b\.ckpt: is no complete checkpoint \(.*{fault}"):
        check_checkpoint(broken)


def test_every_file_of_a_folder_counts(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "version_0/checkpoints/a.ckpt", 100)
    for name in ("manifest.json", f"{TAG}/mp_rank_00_model_states.pt"):
        copy = tmp_path / "copy.ckpt"
        shutil.copytree(checkpoint, copy)
        assert defect(copy) is None
        (copy / name).unlink()
        assert name in str(defect(copy))
        shutil.rmtree(copy)


def test_one_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint nowhere.ckpt"):
        check_checkpoint(Path("nowhere.ckpt"))


@pytest.mark.parametrize("strategy", ["one", "zero2", "zero3"])
def test_no_file_of_a_checkpoint_runs_code(
    strategy: str, sums: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """A real checkpoint is read; the same with code planted in any of its files is not."""
    strong, weak = map(str, pair)
    run(Case("a", strategy, strong, weak, str(sums), steps=1, save_at=1), tmp_path)
    checkpoint = tmp_path / "a.ckpt"
    assert read_state(checkpoint)["global_step"] == 1
    assert any(name.startswith("branches.strong.") for name in read_weights(checkpoint))
    files = [checkpoint] if checkpoint.is_file() else sorted(checkpoint.rglob("*.pt"))
    assert len(files) == (1 if strategy == "one" else 2)
    for file in files:
        before = file.read_bytes()
        content = torch.load(file, weights_only=False)
        torch.save({**content, "more": Attack(tmp_path / "mark")}, file)
        if checkpoint.is_dir():
            seal(checkpoint, int(strategy[-1]))
        for read in (check_checkpoint, read_state, read_weights):
            with pytest.raises(UserError, match=r"opening it would run posix.mkdir"):
                read(checkpoint)
        file.write_bytes(before)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_a_full_disk_leaves_what_was_there(
    strategy: str, sums: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    case = Case("a", strategy, str(pair[0]), str(pair[1]), str(sums), steps=1, save_at=1)
    run(case, tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.pt")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # smaller than a checkpoint
    try:
        with pytest.raises(UserError, match=r"a.ckpt: the checkpoint could not be written"):
            run(case, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.pt")} == before
    check_checkpoint(tmp_path / "a.ckpt")


def test_nothing_is_opened_that_is_not_looked_at(tmp_path: Path) -> None:
    checkpoint = write(tmp_path, "a.ckpt", 100)
    payload = tmp_path / "payload"
    payload.mkdir()
    torch.save(Attack(tmp_path / "mark"), payload / "mp_rank_00_model_states.pt")

    named = shutil.copytree(checkpoint, tmp_path / "named.ckpt")
    (named / "latest").write_text("../payload")
    seal(named, 2)
    with pytest.raises(UserError, match="latest: names another folder"):
        (named / "latest").write_text("../payload")
        (named / "manifest.json").write_text('{"stage": 2, "world_size": 1, "files": {}}')
        check_checkpoint(named)

    linked = shutil.copytree(checkpoint, tmp_path / "linked.ckpt")
    shutil.rmtree(linked / TAG)
    (linked / TAG).symlink_to(payload)
    (linked / "manifest.json").write_text('{"stage": 2, "world_size": 1, "files": {}}')
    for read in (check_checkpoint, read_state, read_weights):
        with pytest.raises(UserError, match="has links in it"):
            read(linked)

    odd = shutil.copytree(checkpoint, tmp_path / "odd.ckpt")
    shutil.copy(payload / "mp_rank_00_model_states.pt", odd / TAG / "another.name")
    with pytest.raises(UserError, match=r"would run posix.mkdir"):
        check_checkpoint(odd)
    assert not (tmp_path / "mark").exists()


def test_the_real_command_opens_no_planted_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {}, "more": Attack(tmp_path / "mark")}, tmp_path / "a.ckpt")
    for verb in ("fit", "validate"):
        with pytest.raises(SystemExit) as end:
            main([verb, f"--config={CONFIGS}/joint.yaml", f"--ckpt_path={tmp_path}/a.ckpt"])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "opening it would run posix.mkdir" in line
    assert not (tmp_path / "mark").exists()

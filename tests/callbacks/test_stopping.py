"""Signals through the real command: saved and ended with a code that says so, then gone on with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import CONFIGS
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file
from wdl.callbacks.stopping import SIGNALS, StopOnSignal

from wdl.config.paths import DataSource, ModelSource
from wdl.data.weak_driven import Selection, WeakDrivenDataModule
from wdl.training.checkpoints import defect
from wdl.training.run_folder import newest_checkpoint
from wdl.training.weak_driven import WeakDrivenModule


@pytest.fixture
def flags(sums: Path, pair: tuple[Path, Path], tmp_path: Path) -> list[str]:
    settings = {
        "model.strong": pair[0],
        "model.weak": pair[1],
        "data.path": sums,
        "data.batch_size": 8,
        "data.micro_batch_size": 4,
        "data.val_fraction": 0,
        "data.selection.weights": "uniform",
        "model.schedule": "constant",
        "model.warmup": 0,
        "trainer.max_epochs": 40,
        "evaluation.benchmark": "null",
        "evaluation.sft_control": False,
        "runs": tmp_path / "runs",
    }
    given = [f"--{name}={value}" for name, value in settings.items()]
    return ["--config", str(CONFIGS / "joint.yaml"), *given]


def start(flags: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "wdl", "fit", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def when(happened: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def children(process: subprocess.Popen[str]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_two_processes_save_and_end_when_one_is_told_to(flags: list[str], tmp_path: Path) -> None:
    flags = [*flags, "--trainer.devices=2"]
    run = tmp_path / "runs" / "joint"
    process = start(flags)
    when(lambda: newest_checkpoint(run), process)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output[-3000:]
    assert "SIGTERM: saving after this step" in output and "go on with --ckpt_path last" in output
    (stopped,) = (run / "version_0" / "checkpoints").glob("stopped-*.ckpt")
    assert defect(stopped) is None and newest_checkpoint(run) == stopped
    step = int(stopped.stem.rpartition("=")[2])

    steps = f"--trainer.max_steps={step + 3}"
    for name, resume in (("joint", ["--ckpt_path=last"]), ("whole", [])):
        process = start([*flags, f"--name={name}", steps, *resume])
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output[-3000:]
    whole, resumed = (
        load_file(tmp_path / "runs" / name / "latest" / "strong" / "model.safetensors")
        for name in ("whole", "joint")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_told_to_in_the_last_validation(
    sums: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """What is announced is done, though no step follows; also without DeepSpeed."""

    class Tell(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)  # the thread hears it

    strong, weak = map(ModelSource, pair)

    def fit(*callbacks: pl.Callback, resume: Path | None = None) -> pl.Trainer:
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=TensorBoardLogger(tmp_path, "", ""),
            callbacks=[StopOnSignal(), *callbacks],
            enable_progress_bar=False,
            num_sanity_val_steps=0,
        )
        data = WeakDrivenDataModule(
            DataSource(sums),
            *(strong, weak, Selection(weights="uniform")),
            batch_size=8,
            micro_batch_size=8,
            val_fraction=0.2,
        )
        module = WeakDrivenModule(strong, weak)
        trainer.fit(module, data, ckpt_path=None if resume is None else str(resume))
        return trainer

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        with pytest.raises(SystemExit) as end:
            fit(Tell())
        (stopped,) = tmp_path.glob("checkpoints/stopped-*.ckpt")
        assert end.value.code == 128 + signal.SIGTERM and defect(stopped) is None
        assert f"step={fit(resume=stopped).global_step}" in stopped.name
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_second_interrupt_ends_at_once(flags: list[str], tmp_path: Path) -> None:
    process = start([*flags, "--trainer.devices=2"])
    when(lambda: newest_checkpoint(tmp_path / "runs" / "joint"), process)
    others = children(process)
    assert others
    for pid in others:
        os.kill(pid, signal.SIGSTOP)  # so that no step ends any more
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGINT)
    try:
        assert process.wait(timeout=30) == 128 + signal.SIGINT
    finally:
        for pid in others:
            if alive(pid):
                os.kill(pid, signal.SIGCONT)
    when_gone = time.monotonic() + 30
    while any(alive(pid) for pid in others):
        assert time.monotonic() < when_gone
        time.sleep(0.1)


def test_a_process_that_dies_takes_the_others_along(flags: list[str], tmp_path: Path) -> None:
    process = start([*flags, "--trainer.devices=2"])
    when(lambda: newest_checkpoint(tmp_path / "runs" / "joint"), process)
    (other,) = children(process)
    os.kill(other, signal.SIGKILL)
    assert process.wait(timeout=60) != 0
    process = start([*flags, "--trainer.devices=2"])
    when(lambda: children(process), process)
    (other,) = children(process)
    process.kill()
    process.wait()
    when_gone = time.monotonic() + 60
    while alive(other):
        assert time.monotonic() < when_gone
        time.sleep(0.1)

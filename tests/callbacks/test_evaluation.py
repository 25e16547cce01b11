"""A fit that is graded on the way: what it finds, what it costs, and that it goes on regardless."""

import ctypes
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import every_sample_once
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wdl.callbacks.evaluation import Evaluation
from wdl.callbacks.export import StrongExport

from wdl.config.paths import InputPath, ModelSource
from wdl.errors import UserError
from wdl.evaluation.sources import Sources
from wdl.generation.engine import EngineName
from wdl.generation.vllm_options import VllmOptions
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import WeakDrivenModule

STEPS_PER_EPOCH = 2
ALLOWED = 50 * 2**20  # bytes of host memory that evaluations may keep


class Recorder(pl.Callback):
    """Losses and state of the random numbers by optimizer step."""

    def __init__(self) -> None:
        self.steps: list[tuple[float, bytes]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, *batch: Any
    ) -> None:
        self.steps.append((outputs["loss"].item(), torch.get_rng_state().numpy().tobytes()))


class Memory(pl.Callback):
    """What this process uses at the end of each validation: host bytes, CUDA bytes."""

    def __init__(self) -> None:
        self.held: list[tuple[int, int]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free could hide what is kept
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.held.append((pages * 4096, torch.cuda.memory_allocated()))


@pytest.fixture
def data(write_rows: Callable[..., Path]) -> Path:
    return write_rows([{"instruction": f"{n}", "output": f"{n}"} for n in range(10)], "data.jsonl")


@pytest.fixture
def problems(write_rows: Callable[..., Path]) -> Sources:
    rows = [{"instruction": f"{n}+1?", "answer": str(n + 1)} for n in range(3)]
    return Sources(write_rows(rows, "problems.jsonl"))


@pytest.fixture
def protocol(tmp_path: Path) -> str:
    file = tmp_path / "short.yaml"
    file.write_text("name: short\nmax_new_tokens: 8\n")
    return str(file)


def fit(source: Path, data: Path, *callbacks: pl.Callback, resume: str | None = None) -> Path:
    """Plain SFT of two epochs, each with a validation; the run's folder."""
    pl.seed_everything(42)
    strong = ModelSource(source)
    trainer = pl.Trainer(
        strategy=DeepSpeed(),
        accelerator="auto",
        devices=1,
        max_epochs=2,
        logger=TensorBoardLogger("runs", default_hp_metric=False),
        callbacks=[StrongExport(), *callbacks],
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        enable_checkpointing=any(isinstance(one, ModelCheckpoint) for one in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    datamodule = every_sample_once(data, strong, batch_size=4, micro_batch_size=4)
    trainer.fit(WeakDrivenModule(strong, lam=1), datamodule, ckpt_path=resume)
    assert trainer.log_dir is not None
    return Path(trainer.log_dir)


def test_a_graded_fit_trains_the_same_and_keeps_no_memory(
    make_branch: Callable[..., Path], data: Path, problems: Sources, protocol: str
) -> None:
    """The weights, 76 MB, would be noticed."""
    source = make_branch(seed=5, hidden_size=512, intermediate_size=2048, num_hidden_layers=6)
    plain, graded, before, after = Recorder(), Recorder(), Memory(), Memory()
    alone = fit(source, data, Evaluation(), plain)
    evaluation = Evaluation("arithmetic", problems, protocol, every_n_validations=1)
    run = fit(source, data, before, evaluation, after, graded)

    assert len(plain.steps) == 2 * STEPS_PER_EPOCH
    assert graded.steps == plain.steps
    for name, weight in load_file(alone / "strong" / "model.safetensors").items():
        assert torch.equal(weight, load_file(run / "strong" / "model.safetensors")[name])
    for (host, cuda), (host_after, cuda_after) in zip(before.held, after.held, strict=True):
        assert host_after - host < ALLOWED
        assert cuda_after == cuda

    steps = [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
    folders = [run / "evaluation" / f"step={step}" for step in steps]
    first, last = ((one / "strong" / "arithmetic.jsonl").read_text() for one in folders)
    assert first != last == (run / "evaluation/strong_after/arithmetic.jsonl").read_text()
    assert not any((one / "model").exists() for one in folders)
    events = EventAccumulator(str(run))
    events.Reload()
    points = events.Scalars("evaluation/arithmetic/accuracy/strong")
    assert [point.step for point in points] == steps
    results = json.loads((run / "results.json").read_text())
    assert set(results["exact_match"]) == {"strong_before", "strong_after"}


@pytest.fixture
def broken_vllm(tmp_path: Path) -> VllmOptions:
    """An interpreter that says it has vLLM, and crashes when it should generate."""
    python = tmp_path / "python"
    known = {"version": "0", "torch": "0", "torchvision": None, "device": "cpu"}
    answer = json.dumps(known)
    python.write_text(f"#!/bin/sh\n[ \"$1\" = -c ] || exit 3\necho '{answer}'\n")
    python.chmod(0o755)
    return VllmOptions(InputPath(python))


def test_an_engine_that_crashes_stops_no_fit(
    pair: tuple[Path, Path],
    data: Path,
    problems: Sources,
    protocol: str,
    broken_vllm: VllmOptions,
) -> None:
    """Graded every second validation; the final evaluation fails, too."""
    evaluation = Evaluation("arithmetic", problems, protocol, EngineName("vllm"), broken_vllm, 2)
    evaluation.check_inputs(ModelSource(pair[0]))
    with pytest.warns(UserWarning, match="evaluation") as warned:
        run = fit(pair[0], data, evaluation)
    messages = [str(warning.message) for warning in warned if "evaluation" in str(warning.message)]
    fault = "the engine failed (ended with exit code 3)"
    assert messages == [
        f"evaluation at step 4 failed: {fault}; training goes on",
        f"the final evaluation failed: {fault}; the run is complete",
    ]
    assert not (run / "evaluation" / "step=2").exists()
    assert not (run / "evaluation" / "step=4" / "model").exists()
    assert json.loads((run / "results.json").read_text())["validation"]["val/loss"] > 0


def test_results_of_a_fit_with_nothing_left_to_train(pair: tuple[Path, Path], data: Path) -> None:
    """It was killed between its last checkpoint and its end."""
    checkpoint = ModelCheckpoint(save_top_k=-1)
    run = fit(pair[0], data, Evaluation(), checkpoint)
    again = fit(pair[0], data, Evaluation(), ModelCheckpoint(), resume=checkpoint.best_model_path)
    whole, resumed = (json.loads((one / "results.json").read_text()) for one in (run, again))
    assert run != again and resumed == whole
    assert whole["validation"]["val/strong_loss"] > 0


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"benchmark": "gsm9k"}, "evaluation: --benchmarks gsm9k: choose from"),
        ({"benchmark": "mawps"}, "evaluation: --benchmarks mawps: it is on no hub"),
        ({"data": Sources("nowhere.jsonl")}, "nowhere.jsonl: there is no such file"),
        ({"protocol": "slow"}, "evaluation: --protocol slow: choose from"),
        ({"protocol": "paper"}, r"need \d+, the model's context is \d+"),
        ({"engine": "vllm", "vllm": VllmOptions()}, "has no vLLM"),
    ],
)
def test_mistakes_show_before_anything_is_loaded(
    settings: dict[str, Any], fault: str, pair: tuple[Path, Path], problems: Sources
) -> None:
    given = {"benchmark": "arithmetic", "data": problems, **settings}
    if given["benchmark"] == "mawps":
        given["data"] = None
    with pytest.raises(UserError, match=fault):
        Evaluation(**given).check_inputs(ModelSource(pair[0]))


def test_a_number_of_validations_is_at_least_one() -> None:
    with pytest.raises(UserError, match=r"every_n_validations: 0 must be at least 1"):
        Evaluation(every_n_validations=0)

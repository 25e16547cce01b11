"""Every strategy trains alike, resumes to the bit, and gives its weights away from anywhere.

``make test`` runs a covering part of the cases; ``make matrix`` runs all of them, over 50 steps.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import BATCH_SIZE, Case, run, write_cases
from safetensors.torch import load_file

from wdl.config.paths import InputPath
from wdl.errors import UserError
from wdl.training.deepspeed import wait_for_all_processes
from wdl.training.export import export_checkpoint

WHOLE = os.environ.get("WDL_TEST_MATRIX") == "1"
STRATEGIES = ("ddp", "zero1", "zero2", "zero3")
STEPS = 50 if WHOLE else 10
FROZEN, TRAINED, SFT, LORA = "frozen", "trained", "sft", "lora"
# preference training against stored numbers, a frozen branch, the model without its adapter
DPO, AGAINST, ADAPTED = "dpo", "against", "adapted"
PREFERENCE = (DPO, AGAINST, ADAPTED)
TIED = (TRAINED, LORA, DPO, ADAPTED)
ADAPTERS = (LORA, ADAPTED)
# micro-batches that each of two processes accumulates, and their size
ACCUMULATED = {1: BATCH_SIZE // 2, 4: BATCH_SIZE // 8}


def names() -> list[str]:
    """WEAK-ACCUMULATION-PRECISION-STRATEGY of every fit."""
    others = [f"{SFT}-1-32-zero2", f"{LORA}-1-32-zero2", f"{LORA}-1-32-zero3"]
    others += [f"{ADAPTED}-1-32-{strategy}" for strategy in ("zero2", "zero3")]
    if WHOLE:
        others += [
            f"{kind}-{k}-32-{s}" for kind in (DPO, AGAINST) for k in (1, 4) for s in STRATEGIES
        ]
        others += [f"{kind}-4-16-{s}" for kind in (DPO, AGAINST) for s in STRATEGIES]
        settings = [f"{weak}-{k}" for weak in (FROZEN, TRAINED) for k in ACCUMULATED]
        strategies = (*STRATEGIES, "zero2-offload", "zero3-offload")
        whole = [f"{setting}-32-{strategy}" for setting in settings for strategy in strategies]
        rounded = [f"{setting}-16-{strategy}" for setting in settings for strategy in STRATEGIES]
        return [*whole, *rounded, *others]
    return [
        *(f"{FROZEN}-4-32-{strategy}" for strategy in STRATEGIES),
        *(f"{TRAINED}-1-32-{strategy}" for strategy in (*STRATEGIES, "zero3-offload")),
        *(f"{TRAINED}-1-16-{strategy}" for strategy in STRATEGIES),
        *(f"{DPO}-4-32-{strategy}" for strategy in STRATEGIES),
        *(f"{DPO}-1-16-{strategy}" for strategy in STRATEGIES),
        *(f"{AGAINST}-4-32-{strategy}" for strategy in ("zero2", "zero3")),
        *others,
    ]


NAMES = names()
# the one-process runs that these are compared with
REFERENCES = sorted({name[: name.rindex("32") + 2] for name in NAMES if "-32-" in name})


def matching(pattern: str) -> list[str]:
    return [name for name in NAMES if pattern in name]


@pytest.fixture(scope="module")
def inputs(
    make_branch: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    rows = [{"instruction": f"{n} + {n}", "output": str(2 * n) * (1 + n % 5)} for n in range(48)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tied, untied = (make_branch(seed=3, tie_word_embeddings=tie) for tie in (True, False))
    branches = {"tied": str(tied), "untied": str(untied), "weak": str(make_branch(seed=4))}
    pairs = [
        {
            "prompt": f"{n} + {n}",
            "chosen": [str(2 * n) * (1 + k) for k in range(1 + n % 2)],
            "rejected": [str(2 * n + 1) * (1 + k) for k in range(1 + n % 3)],
        }
        for n in range(48)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    return {**branches, "data": f"{folder}/rows.jsonl", "pairs": f"{folder}/pairs.jsonl"}


def case(name: str, inputs: dict[str, str]) -> Case:
    pair, accumulated, bits, strategy = name.split("-", 3)
    strong = inputs["tied" if pair in TIED else "untied"]
    weak = {SFT: None, LORA: strong, DPO: None, ADAPTED: strong}.get(pair, inputs["weak"])
    rounded = "bf16-mixed" if strategy == "ddp" else "bf16-true"
    return Case(
        name,
        strategy,
        strong,
        weak,
        inputs["pairs" if pair in PREFERENCE else "data"],
        train_weak=pair == TRAINED,
        lora=pair in ADAPTERS,
        preference=pair in PREFERENCE,
        reference="stored" if pair == DPO else "branch",
        micro_batch_size=ACCUMULATED[int(accumulated)],
        precision="32-true" if bits == "32" else rounded,
        steps=STEPS,
        save_at=STEPS * 8 // 10,
    )


def launch(cases: list[Case], out: Path) -> None:
    """Run ``cases`` in one group of two processes."""
    write_cases(cases, out / "cases.json")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    script = Path(__file__).parents[1] / "ranks.py"
    command = [*torchrun, "--standalone", str(script), f"{out}/cases.json", str(out)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-5000:]


@pytest.fixture(scope="module")
def out(inputs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all fits on two processes, and their resumed halves, write to."""
    out = tmp_path_factory.mktemp("ranks")
    fits = [case(name, inputs) for name in NAMES]
    resumed = [
        replace(fit, name=f"{fit.name}-resumed", resume=f"{out / fit.name}.ckpt") for fit in fits
    ]
    launch([*fits, *resumed], out)
    return out


@pytest.fixture(scope="module")
def reference(inputs: dict[str, str], out: Path) -> Callable[[str], dict[str, Any]]:
    """Results of a fit on one process without a strategy."""
    results = {}
    for name in REFERENCES:
        results[name] = run(case(f"{name}-one", inputs), out)
    return lambda name: results[next(r for r in REFERENCES if name.startswith(r))]


def losses(out: Path, name: str) -> list[float]:
    recorded = json.loads((out / f"{name}.json").read_text())["losses"]
    assert [int(step) for step in recorded] == list(range(1, STEPS + 1))
    return list(recorded.values())


@pytest.mark.parametrize("name", matching("-32-"))
def test_float32_losses_are_those_of_one_process(
    name: str, out: Path, reference: Callable[[str], dict[str, Any]]
) -> None:
    expected = list(reference(name)["losses"].values())
    assert expected[-1] < expected[0]
    assert losses(out, name) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", matching("-16-zero"))
def test_bfloat16_losses_of_the_stages_agree(name: str, out: Path) -> None:
    first = f"{name[: name.index('zero')]}zero1"
    assert losses(out, name) == pytest.approx(losses(out, first), rel=1e-3)


@pytest.mark.parametrize("name", matching("-16-ddp"))
def test_autocast_over_float32_weights_is_another_scheme(name: str, out: Path) -> None:
    stages = losses(out, name.replace("ddp", "zero1"))
    assert losses(out, name) == pytest.approx(stages, rel=1e-2)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_in_an_epoch_to_the_bit(name: str, out: Path) -> None:
    whole, resumed = (load_file(out / f"{n}.safetensors") for n in (name, f"{name}-resumed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    results = [json.loads((out / f"{n}.json").read_text()) for n in (name, f"{name}-resumed")]
    assert results[0]["metrics"] == results[1]["metrics"]
    assert list(results[0]["losses"].items())[-len(results[1]["losses"]) :] == list(
        results[1]["losses"].items()
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_exports_the_live_branch(name: str, out: Path, tmp_path: Path) -> None:
    export_checkpoint(InputPath(out / f"{name}-end.ckpt"), str(tmp_path / "strong"))
    live = load_file(out / f"{name}.safetensors")
    stored = load_file(tmp_path / "strong" / "model.safetensors")
    assert live.keys() - stored.keys() == ({"lm_head.weight"} if name.startswith(TIED) else set())
    for key, weight in stored.items():
        assert weight.dtype == live[key].dtype and torch.equal(weight, live[key])
    assert (tmp_path / "strong" / "adapter").exists() == name.startswith(ADAPTERS)


def test_a_frozen_weak_branch_takes_no_room(out: Path) -> None:
    def size(checkpoint: Path) -> int:
        return sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())

    frozen = [size(out / f"{n}-end.ckpt") for n in matching(FROZEN) if n.endswith("32-zero2")]
    assert frozen and max(frozen) <= 1.01 * size(out / f"{SFT}-1-32-zero2-end.ckpt")


@pytest.fixture(scope="module")
def validated(inputs: dict[str, str], out: Path) -> list[str]:
    """Names of the fits whose last checkpoints fresh processes have validated."""
    chosen = [
        n for n in matching("-32-") if n.startswith((f"{FROZEN}-4", f"{TRAINED}-1", f"{DPO}-4"))
    ]
    cases = [
        replace(case(name, inputs), name=f"{name}-validated", validate=f"{out / name}-end.ckpt")
        for name in chosen
        if "ddp" not in name
    ]
    launch(cases, out)
    return [fit.name.removesuffix("-validated") for fit in cases]


def test_checkpoints_of_every_stage_validate_in_fresh_processes(
    out: Path, validated: list[str]
) -> None:
    assert any("zero3" in name for name in validated)
    for name in validated:
        results = [json.loads((out / f"{n}.json").read_text()) for n in (name, f"{name}-validated")]
        fitted, fresh = (result["metrics"] for result in results)
        assert len(fitted) >= 3 and fresh.keys() >= fitted.keys() - {"train/loss"}
        for metric in fitted.keys() - {"train/loss"}:
            assert fresh[metric] == pytest.approx(fitted[metric], rel=1e-6), name


@pytest.mark.parametrize("name", [n for n in matching(f"{TRAINED}-1-32-zero") if "off" not in n])
def test_one_process_validates_what_two_wrote(name: str, inputs: dict[str, str], out: Path) -> None:
    fitted = json.loads((out / f"{name}.json").read_text())["metrics"]
    alone = replace(case(name, inputs), validate=f"{out / name}-end.ckpt")
    assert run(alone, out)["metrics"]["val/loss"] == pytest.approx(fitted["val/loss"], rel=1e-6)


def test_another_number_of_processes_is_refused_under_deepspeed(
    inputs: dict[str, str], out: Path
) -> None:
    name = f"{TRAINED}-1-32-zero2"
    alone = replace(case(name, inputs), name="alone", resume=f"{out / name}.ckpt")
    with pytest.raises(UserError, match="written by 2 processes under ZeRO stage 2"):
        run(alone, out)


def test_another_number_of_processes_goes_on_with_the_same_plan_under_ddp(
    inputs: dict[str, str], out: Path
) -> None:
    name = f"{TRAINED}-1-32-ddp"
    alone = replace(case(name, inputs), name="alone", strategy="one", resume=f"{out / name}.ckpt")
    resumed = run(alone, out)["losses"]
    assert list(resumed.values()) == pytest.approx(losses(out, name)[-len(resumed) :], rel=1e-5)


def work_alone(rank: int, meeting: Path) -> None:
    """The first process works three times as long as a collective may take."""
    limit = timedelta(seconds=1)
    torch.distributed.init_process_group(
        "gloo", f"file://{meeting}", limit, rank=rank, world_size=2
    )
    if rank == 0:
        time.sleep(3)
        meeting.with_name("done").touch()
    wait_for_all_processes()
    assert meeting.with_name("done").exists()


def test_one_process_may_work_alone_for_long(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work_alone, (tmp_path / "meeting",), nprocs=2)
    assert (tmp_path / "done").exists()


def test_other_micro_batches_make_the_same_steps_after_a_resume(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    before = case(f"{TRAINED}-1-32-zero2", inputs)
    whole = run(replace(before, name="whole"), tmp_path)["losses"]
    smaller = replace(before, name="smaller", micro_batch_size=1, resume=f"{tmp_path}/whole.ckpt")
    resumed = run(smaller, tmp_path)["losses"]
    assert list(resumed) == list(whole)[-2 if STEPS == 10 else -10 :]
    assert list(resumed.values()) == pytest.approx([whole[n] for n in resumed], rel=1e-5)

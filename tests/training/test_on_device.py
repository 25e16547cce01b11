"""What a GPU does another way than a CPU, at the precision of training, against float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import DEVICE
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from wdl.branches.loading import load_branch
from wdl.config.paths import ModelSource
from wdl.data.batches import Batch, collate, collate_pack
from wdl.data.encoding import Encoded
from wdl.data.scoring import sample_entropies
from wdl.training.weak_driven import WeakDrivenModule

LENGTHS = [70, 3, 128, 41]
SHAPE = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
DTYPES = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-2)], ids=str
)


@pytest.fixture(scope="module")
def folders(make_branch: Callable[..., Path]) -> tuple[Path, Path]:
    """Strong and weak, with keys that serve several heads, of a size that kernels take."""
    return make_branch(seed=1, **SHAPE), make_branch(seed=2, **SHAPE)


def samples() -> list[Encoded]:
    generator = torch.Generator().manual_seed(0)
    return [
        {"input_ids": torch.randint(250, (n,), generator=generator).tolist(), "prompt_length": 2}
        for n in LENGTHS
    ]


def joint_module(
    folders: tuple[Path, Path], dtype: torch.dtype, device: torch.device, **settings: Any
) -> WeakDrivenModule:
    strong, weak = map(ModelSource, folders)
    module = WeakDrivenModule(strong, weak, train_weak=True)
    for name, folder in (("strong", strong), ("weak", weak)):
        module.branches[name] = load_branch(folder, dtype, device=device, **settings)
    return module


def loss_and_gradients(module: WeakDrivenModule, *batches: Batch) -> tuple[Tensor, list[Tensor]]:
    loss = torch.stack([module.loss(batch) for batch in batches]).sum()
    loss.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return loss.detach().cpu().double(), [gradient.cpu().double() for gradient in gradients]


def distance(measured: Tensor, exact: Tensor) -> float:
    return ((measured - exact).norm() / exact.norm()).item()


@pytest.mark.device
@DTYPES
@pytest.mark.parametrize("autocast", [False, True])
def test_a_joint_step_on_a_pack(
    folders: tuple[Path, Path], dtype: torch.dtype, tolerance: float, autocast: bool
) -> None:
    """Both branches train; the exact one reads the samples one by one."""
    count = sum(length - 2 for length in LENGTHS)
    exact = joint_module(folders, torch.float64, torch.device("cpu"))
    alone = [collate([sample], [0], 0, count) for sample in samples()]
    truth, gradients = loss_and_gradients(exact, *alone)
    weights = torch.float32 if autocast else dtype
    module = joint_module(folders, weights, DEVICE, packed=True)
    pack = move_data_to_device(collate_pack(samples(), range(4), 0, count), DEVICE)
    with torch.autocast(DEVICE.type, dtype, enabled=autocast and dtype != torch.float32):
        loss, measured = loss_and_gradients(module, pack)
    assert distance(loss, truth) < tolerance / 10
    assert len(measured) == len(gradients)
    whole, right = (torch.cat([g.flatten() for g in each]) for each in (measured, gradients))
    assert distance(whole, right) < tolerance


@pytest.mark.device
@DTYPES
def test_entropies(folders: tuple[Path, Path], dtype: torch.dtype, tolerance: float) -> None:
    batch = collate(samples(), range(4), 0, 1)
    exact = sample_entropies(load_branch(str(folders[0]), torch.float64), dict(batch))
    model = load_branch(str(folders[0]), dtype, device=DEVICE)
    measured = sample_entropies(model, move_data_to_device(dict(batch), DEVICE))
    assert measured == pytest.approx(exact, rel=tolerance / 10)

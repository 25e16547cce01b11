"""Compiled layers: the same losses, gradients and names, and one graph for packs of any lengths."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from wdl.branches import compiling
from wdl.branches.compiling import check_backend, compile_layers
from wdl.branches.loading import load_branch
from wdl.branches.lora import Lora
from wdl.branches.reading import hidden_states
from wdl.config.paths import ModelSource
from wdl.data.batches import Batch, collate, collate_pack
from wdl.data.encoding import Encoded
from wdl.errors import UserError
from wdl.training.weak_driven import WeakDrivenModule

PACKS = [[7, 12, 1, 5], [3, 20], [31], [5, 5, 5, 5, 5, 5]]


@pytest.fixture(autouse=True)
def _nothing_compiled() -> None:
    torch.compiler.reset()
    counters.clear()


def samples(lengths: list[int]) -> list[Encoded]:
    generator = torch.Generator().manual_seed(len(lengths))
    tokens = [torch.randint(250, (n,), generator=generator).tolist() for n in lengths]
    return [{"input_ids": row, "prompt_length": 1} for row in tokens]


def assert_alike(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_packs_of_any_lengths_share_their_graphs(pair: tuple[Path, Path]) -> None:
    graphs, states = [], []
    plain, compiled = (load_branch(str(pair[0]), packed=True) for _ in range(2))
    compile_layers(compiled, "aot_eager")
    for lengths in PACKS:
        batch = collate_pack(samples(lengths), range(len(lengths)), 0, 1)
        read = (batch["input_ids"], batch["attention_mask"], batch["segments"])
        for model in (plain, compiled):
            model.zero_grad()
            states.append(hidden_states(model, *read))
            states[-1].square().sum().backward()
        gradients = [
            [p.grad for p in model.parameters() if p.grad is not None]
            for model in (plain, compiled)
        ]
        assert_alike(states[-1:], states[-2:-1])
        assert_alike(*gradients)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0 and graphs[1] == graphs[-1]
    assert compiled.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    "settings",
    [{"gradient_checkpointing": True}, {"lora": Lora(rank=2), "train_weak": False}],
    ids=["checkpointing", "lora"],
)
def test_a_pair_trains_the_same(settings: dict[str, Any], pair: tuple[Path, Path]) -> None:
    found: list[list[Tensor]] = []
    strong = ModelSource(pair[0])
    weak = strong if "lora" in settings else ModelSource(pair[1])
    batch: Batch = collate(samples(PACKS[0]), range(4), 0, 20)
    for backend in (None, "aot_eager"):
        torch.manual_seed(0)
        module = WeakDrivenModule(strong, weak, compile_backend=backend, **settings)
        module.configure_model()
        torch.manual_seed(1)
        for name, weight in module.named_parameters():
            if "lora_B" in name:  # begins at 0, where an adapter changes nothing
                torch.nn.init.normal_(weight)
        loss = module.loss(batch)
        loss.backward()
        found.append([loss, *(p.grad for p in module.parameters() if p.grad is not None)])
    assert counters["stats"]["unique_graphs"] > 0 and len(found[0]) > 1
    assert_alike(*found)


def test_what_it_needs_is_missed_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(compiling.shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"^model.compile_backend: inductor needs .* g\+\+"):
        check_backend("inductor")
    check_backend("aot_eager")

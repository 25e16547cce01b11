"""Branches: every architecture gives logits that are hidden @ head.T, or is refused by name."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES, SIZES
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GraniteConfig,
    PretrainedConfig,
)

from wdl.branches.loading import (
    check_same_vocabulary,
    check_source,
    load_branch,
)
from wdl.branches.reading import hidden_states, output_head
from wdl.errors import UserError


def write_model(config: PretrainedConfig, folder: Path) -> str:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_logits_are_hidden_times_head(config: PretrainedConfig, tmp_path: Path) -> None:
    branch = load_branch(write_model(config, tmp_path))
    assert branch.training
    branch.eval()
    ids = torch.randint(300, (2, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    with torch.no_grad():
        ours = hidden_states(branch, ids, mask) @ output_head(branch).weight.T
        theirs = branch(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (Gemma2Config(**SIZES), "final_logit_softcapping"),
        (GraniteConfig(**SIZES, logits_scaling=8.0), "logits_scaling"),
    ],
)
def test_changed_logits_are_refused(config: PretrainedConfig, setting: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=setting):
        load_branch(write_model(config, tmp_path))


def test_random_weights_on_request(architecture: Path) -> None:
    branch = load_branch(str(architecture), torch.bfloat16, pretrained=False)
    assert branch.dtype == torch.bfloat16


def test_another_hidden_size_is_fine(make_branch: Callable[..., Path]) -> None:
    check_same_vocabulary(str(make_branch(hidden_size=64)), str(make_branch()))


def test_another_vocabulary_is_refused(make_branch: Callable[..., Path]) -> None:
    weak = make_branch(vocab_size=320)
    with pytest.raises(UserError, match=r"has 320 logits"):
        check_same_vocabulary(str(make_branch()), str(weak))


def test_another_tokenizer_is_refused(make_branch: Callable[..., Path]) -> None:
    weak = make_branch()
    file = weak / "tokenizer.json"
    file.write_text(file.read_text().replace("<|box_start|>", "<|other|>"))
    with pytest.raises(UserError, match=r"tokenizer of .* differs"):
        check_same_vocabulary(str(make_branch()), str(weak))


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model.weak: .* holds no config.json"):
        check_source(str(tmp_path), "model.weak")
    with pytest.raises(UserError, match=r"model.strong: there is no folder"):
        check_source(str(tmp_path / "nowhere"), "model.strong")

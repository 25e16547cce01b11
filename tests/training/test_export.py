"""The exported folder is the live branch: weights, logits, tied heads, end tokens, template."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES
from ranks import Case, run
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from wdl.branches.loading import load_branch
from wdl.branches.whole_weights import gather_weights
from wdl.config.paths import InputPath, ModelSource
from wdl.errors import UserError
from wdl.training import export
from wdl.training.export import export_checkpoint, export_model


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reloaded_logits_are_equal(
    config: PretrainedConfig, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "start")
    branch = load_branch(str(tmp_path / "start"), dtype)
    with torch.no_grad():
        for parameter in branch.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    export_model(branch, gather_weights(branch), tokenizer, tmp_path / "strong", {})
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "strong")
    assert reloaded.dtype == dtype
    ids = torch.randint(300, (2, 9))
    with torch.no_grad():
        assert torch.equal(reloaded(ids).logits, branch.eval()(ids).logits)


def test_generation_stops_at_every_end_token(
    make_branch: Callable[..., Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    # as in Qwen3 Base: the configuration ends a text, the tokenizer a turn
    end_of_text = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    branch = load_branch(str(make_branch(eos_token_id=end_of_text)))
    export_model(branch, gather_weights(branch), tokenizer, tmp_path / "strong", {})
    ends = GenerationConfig.from_pretrained(tmp_path / "strong").eos_token_id
    assert {end_of_text, tokenizer.convert_tokens_to_ids("<|im_end|>")} <= set(ends)


def test_generation_settings_without_effect_do_not_stop_an_export(
    make_branch: Callable[..., Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    source = make_branch()
    settings = '{"do_sample": false, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 7}'
    (source / "generation_config.json").write_text(settings)
    branch = load_branch(str(source))
    export_model(branch, gather_weights(branch), tokenizer, tmp_path / "strong", {})
    written = GenerationConfig.from_pretrained(tmp_path / "strong")
    assert (written.temperature, written.top_p, written.max_new_tokens) == (None, None, 7)


def test_the_folder_is_complete(
    make_branch: Callable[..., Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    branch = load_branch(str(make_branch()))
    export_model(branch, gather_weights(branch), tokenizer, tmp_path / "strong", {})
    files = {file.name for file in (tmp_path / "strong").iterdir()}
    assert {"model.safetensors", "config.json", "generation_config.json", "tokenizer.json"} <= files
    reloaded = AutoTokenizer.from_pretrained(tmp_path / "strong")
    assert reloaded.chat_template == tokenizer.chat_template


def test_an_export_that_would_differ_leaves_nothing(
    make_branch: Callable[..., Path],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    branch = load_branch(str(make_branch()))
    weights = gather_weights(branch)
    check = export._check_written

    def check_changed(folder: Path, expected: dict[str, torch.Tensor]) -> None:
        check(folder, {name: weight + 1 for name, weight in expected.items()})

    monkeypatch.setattr(export, "_check_written", check_changed)
    with pytest.raises(RuntimeError, match="was not written as it is in the model"):
        export_model(branch, weights, tokenizer, tmp_path / "strong", {})
    assert list(tmp_path.iterdir()) == []


def test_a_branch_that_began_at_random(
    architecture: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    branch = load_branch(str(architecture), pretrained=False)
    export_model(branch, gather_weights(branch), tokenizer, tmp_path / "strong", {})
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "strong")
    assert torch.equal(reloaded.lm_head.weight, branch.lm_head.weight)


def test_large_models_are_split_into_files(
    make_branch: Callable[..., Path],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    branch = load_branch(str(make_branch()))
    monkeypatch.setattr(export, "MAX_SHARD_SIZE", "50KB")
    export_model(branch, gather_weights(branch), tokenizer, tmp_path / "strong", {})
    assert len(list((tmp_path / "strong").glob("model-*-of-*.safetensors"))) > 1
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "strong").state_dict()
    assert all(torch.equal(reloaded[name], w) for name, w in branch.state_dict().items())


def test_a_checkpoint_of_another_architecture(
    make_branch: Callable[..., Path], sums: Path, tmp_path: Path
) -> None:
    strong = make_branch(seed=1)
    run(Case("a", "one", str(strong), None, str(sums), steps=1, save_at=1), tmp_path)
    other = ModelSource(make_branch(seed=1, hidden_size=64))
    ckpt, out = InputPath(tmp_path / "a.ckpt"), tmp_path / "out"
    with pytest.raises(UserError, match="is not the architecture of the weights"):
        export_checkpoint(ckpt, str(out), model=other)
    shutil.rmtree(strong)
    with pytest.raises(UserError, match=r"the model that the run began with \(give --model\)"):
        export_checkpoint(ckpt, str(out))
    assert not out.exists()
    export_checkpoint(ckpt, str(out), model=ModelSource(make_branch(seed=9)))
    with pytest.raises(UserError, match="exists already"):
        export_checkpoint(ckpt, str(out), model=other)

"""What is loaded as a branch, and what is refused: by its files, by its kind, by its weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ARCHITECTURES
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    Qwen2_5OmniConfig,
    T5Config,
    ViTConfig,
)

from wdl.branches.loading import check_same_vocabulary, load_branch
from wdl.branches.reading import hidden_states, output_head
from wdl.branches.sources import check_source, drop_idle_settings
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


def spoil(folder: Path, how: str) -> None:
    """Do to a model folder what copying, cloning and editing by hand do."""
    weights, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    shards = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "pointer":
        weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n")
    elif how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "header":
        weights.write_bytes(b"\xff" * 100)
    elif how == "shard":
        index.write_text(json.dumps(shards))
        weights.rename(folder / "one.safetensors")
    elif how == "index":
        index.write_text("{}")
        weights.unlink()
    elif how == "generation":
        (folder / "generation_config.json").write_text("{")
    elif how == "sequences":
        (folder / "generation_config.json").write_text('{"num_return_sequences": 4}')


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "holds no config.json"),
        ("no weights", "holds no weights"),
        ("pointer", "holds a Git LFS pointer in place of model.safetensors; run git lfs pull"),
        ("cut off", r"has a damaged model.safetensors \("),
        ("header", r"has a damaged model.safetensors \("),
        ("shard", "lacks two.safetensors, which model.safetensors.index.json names"),
        ("index", "has a broken model.safetensors.index.json"),
        ("generation", "its generation_config.json cannot be read"),
        ("sequences", "its generation_config.json cannot be read .*num_return_sequences"),
    ],
)
def test_folders_that_hold_no_whole_model(
    how: str, message: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(pair[0], tmp_path / "model")
    check_source(str(folder), "model.weak")
    spoil(folder, how)
    with pytest.raises(UserError, match=f"^model.weak: .*{message}"):
        check_source(str(folder), "model.weak")
    if how in ("no weights", "shard", "index"):
        check_source(str(folder), "model.weak", weights=False)


@pytest.mark.parametrize("source", ["nowhere", "./nowhere", "/nowhere/model"])
def test_folders_that_are_not_there(source: str) -> None:
    with pytest.raises(UserError, match=f"^model.strong: there is no folder {source}; "):
        check_source(source, "model.strong")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (T5Config(), r"is an encoder-decoder model \(t5\)"),
        (Qwen2_5OmniConfig(), r"is a model of several parts \(qwen2_5_omni, with "),
        (ViTConfig(), r"is no causal or image-text model of transformers \(vit\)"),
    ],
)
def test_other_kinds_of_models(config: PretrainedConfig, message: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        check_source(str(tmp_path), "model.strong", weights=False)


@pytest.mark.parametrize("how", ["lacking", "another size"])
def test_weights_that_are_not_all_there(how: str, pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(pair[0], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    norm = weights.pop("model.norm.weight")
    if how == "another size":
        weights["model.norm.weight"] = norm[:-1].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 weights are .* for example model.norm.weight"):
        load_branch(str(folder))


def test_settings_without_effect_are_dropped() -> None:
    greedy = GenerationConfig(do_sample=False, temperature=0.6, top_p=0.9, max_new_tokens=7)
    drop_idle_settings(greedy)
    assert (greedy.temperature, greedy.top_p, greedy.max_new_tokens) == (None, None, 7)
    sampling = GenerationConfig(do_sample=True, temperature=0.6)
    drop_idle_settings(sampling)
    assert sampling.temperature == 0.6

"""Prompts are those of the training, and fit the model; answers end where a turn does."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import encode
from transformers import GenerationConfig

from wdl.errors import UserError
from wdl.generation.engine import Request, Sampling
from wdl.generation.protocols import PROTOCOLS
from wdl.generation.transformers_engine import TransformersEngine
from wdl.questions.problems import Problem

PROBLEMS = [Problem("a", "1+1?", "2"), Problem("b", "2+2?", "4")]
QUICK = PROTOCOLS["quick"].sampling("any")


@pytest.fixture
def engine(architecture: Path) -> TransformersEngine:
    return TransformersEngine(str(architecture))


def test_the_prompt_is_that_of_the_training(engine: TransformersEngine) -> None:
    trained = encode(engine.tokenizer, [{"role": "user", "content": "1+1?"}], "2", end_token=0)
    (first, _) = engine.prompts(PROTOCOLS["quick"].requests(PROBLEMS), QUICK)
    assert first.tokens == trained["input_ids"][: trained["prompt_length"]]


def test_the_system_prompt_comes_first(engine: TransformersEngine) -> None:
    (first, _) = engine.prompts(PROTOCOLS["paper"].requests(PROBLEMS), QUICK)
    text = str(engine.tokenizer.decode(first.tokens))
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.")
    assert text.endswith("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n")


def test_too_little_context_is_refused_with_the_numbers(engine: TransformersEngine) -> None:
    requests = PROTOCOLS["quick"].requests(PROBLEMS)
    longest = max(len(prompt.tokens) for prompt in engine.prompts(requests, QUICK))
    context = engine.config.max_position_embeddings
    room = context - longest
    engine.check(requests, Sampling(room, 0.0, 1.0, 0))
    with pytest.raises(
        UserError,
        match=f"a prompt of {longest} tokens and {room + 1} new ones need {context + 1}, the "
        f"model's context is {context}; ask for at most {room} new tokens",
    ):
        engine.check(requests, Sampling(room + 1, 0.0, 1.0, 0))
    huge = [Request("a", 0, [{"role": "user", "content": "1" * context}])]
    with pytest.raises(UserError, match=f"context is {context}; leave that question out"):
        engine.check(huge, Sampling(1, 0.0, 1.0, 0))


def test_the_record_tells_prompts_apart(engine: TransformersEngine) -> None:
    first = engine.check([Request("a", 0, [{"role": "user", "content": "1?"}])], QUICK)
    again = engine.check([Request("b", 3, [{"role": "user", "content": "1?"}])], QUICK)
    other = engine.check([Request("a", 0, [{"role": "user", "content": "2?"}])], QUICK)
    assert first == again != other


def test_a_turn_ends_an_answer_and_so_does_what_is_configured(
    architecture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(architecture, folder)
    GenerationConfig(eos_token_id=[3, 5]).save_pretrained(folder)
    engine = TransformersEngine(str(folder))
    end_of_turn = engine.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert engine.stop_tokens == tuple(sorted({3, 5, end_of_turn}))


@pytest.mark.parametrize(
    ("name", "contents", "fault"),
    [
        ("config.json", None, "holds no config.json"),
        ("config.json", "{", "its configuration cannot be read"),
        ("tokenizer_config.json", None, "holds no tokenizer_config.json"),
    ],
)
def test_a_folder_without_a_model(
    name: str, contents: str | None, fault: str, architecture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(architecture, folder)
    (folder / name).unlink()
    if contents is not None:
        (folder / name).write_text(contents)
    with pytest.raises(UserError, match=fault):
        TransformersEngine(str(folder)).tokenizer  # noqa: B018 (loads it)


def test_a_model_without_a_template(architecture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(architecture, folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="no chat template"):
        TransformersEngine(str(folder)).check(PROTOCOLS["quick"].requests(PROBLEMS), QUICK)

"""Requests with pictures: answered as transformers answers each alone, and counted before that."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaConfig
from vision_models import KINDS, draw, requests_with_images, write_vision_model

from wdl.branches.vision import open_image
from wdl.errors import UserError
from wdl.generation.engine import Generation, Request, Sampling
from wdl.generation.openai_engine import OpenAIEngine
from wdl.generation.protocols import PROTOCOLS
from wdl.generation.transformers_engine import TransformersEngine
from wdl.questions.problems import Problem
from wdl.remote.endpoint import Endpoint

GREEDY = Sampling(24, 0.0, 1.0, 42)


@pytest.fixture(scope="module", params=KINDS)
def folder(
    request: pytest.FixtureRequest, architecture: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_vision_model(folder, request.param)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(str(folder))


@pytest.fixture
def requests(tmp_path: Path) -> list[Request]:
    return requests_with_images(tmp_path)


def answers(engine: TransformersEngine, requests: list[Request]) -> list[Generation]:
    found = {one.id: one for part in engine.generate(requests, GREEDY) for one in part}
    return [found[request.id] for request in requests]


def alone(engine: TransformersEngine, request: Request) -> list[int]:
    """What generate of transformers writes."""
    (prompt,) = engine.prompts([request], GREEDY)
    tokens = torch.tensor([prompt.tokens])
    images = [open_image(Path(image)) for image in request.images]
    pictures = engine.vision.inputs(tokens, images) if images else {}
    return engine.model.generate(  # type: ignore[operator]
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=GREEDY.max_new_tokens,
        do_sample=False,
        eos_token_id=list(engine.stop_tokens),
        pad_token_id=0,
        **pictures,
    )[0, tokens.shape[1] :].tolist()


def test_greedy_answers_are_those_of_transformers(
    engine: TransformersEngine, requests: list[Request]
) -> None:
    """Batched with and without pictures, padded and shrinking, against one at a time."""
    ours = answers(engine, requests)
    for request, generation in zip(requests, ours, strict=True):
        expected = alone(engine, request)
        stopped = expected[-1] in engine.stop_tokens
        assert generation == engine.generation(request, expected, stopped)
    assert len({one.new_tokens for one in ours}) > 3  # rows leave the batch on the way
    text = [request for request in requests if not request.images]
    assert answers(engine, text) == [
        one for one, r in zip(ours, requests, strict=True) if r in text
    ]


def ask(engine: TransformersEngine, text: str, *images: str) -> dict[str, Any]:
    return engine.check([Request("p", 0, [{"role": "user", "content": text}], images)], GREEDY)


def test_the_record_tells_pictures_apart(engine: TransformersEngine, tmp_path: Path) -> None:
    one, other = (draw(tmp_path / f"{colour}.png", 56, 56, colour) for colour in ("red", "blue"))
    records = [
        ask(engine, "<image>?", one),
        ask(engine, "<image>?", other),
        ask(engine, "<image><image>?", one, other),
        ask(engine, "<image><image>?", other, one),
        ask(engine, "?"),
    ]
    assert len({record["prompt_sha256"] for record in records}) == 5
    draw(Path(other), 56, 56, "red")
    assert ask(engine, "<image>?", other) == records[0]


def test_faulty_pictures_are_named_with_their_question(
    engine: TransformersEngine, tmp_path: Path
) -> None:
    picture, text = draw(tmp_path / "a.png", 56, 56, "red"), tmp_path / "b.png"
    text.write_text("no picture")
    told = [
        Request("one", 0, [{"role": "user", "content": "<image>"}], (str(tmp_path / "c.png"),)),
        Request("two", 0, [{"role": "user", "content": "<image>"}], (str(text),)),
        Request("two", 1, [{"role": "user", "content": "<image>"}], (str(text),)),
        Request("three", 0, [{"role": "user", "content": "<image> <image>"}], (picture,)),
        Request("four", 0, [{"role": "user", "content": "<|image_pad|>"}]),
        Request("five", 0, [{"role": "user", "content": "<image>"}], (picture,)),
    ]
    with pytest.raises(UserError) as refused:
        engine.check(told, GREEDY)
    assert [fault.split(";")[0] for fault in refused.value.faults] == [
        f"one: there is no picture {tmp_path / 'c.png'}",
        f"two: {text} is no picture that can be read",
        "three: there are 1 pictures for 2 <image>",
        "four: the prompt has room for 1 pictures and there are 0",
    ]
    with pytest.raises(UserError) as again:
        OpenAIEngine("m", Endpoint("http://host", "m")).check(told, GREEDY)
    assert again.value.faults == refused.value.faults[:3]


def test_the_tokens_of_pictures_need_context(engine: TransformersEngine, tmp_path: Path) -> None:
    side = 8 * engine.vision.images.patch_size
    picture = draw(tmp_path / "a.png", side, side, "red")
    asked = [Request("p", 0, [{"role": "user", "content": "<image>"}], (picture,))]
    (prompt,) = engine.prompts(asked, GREEDY)
    assert prompt.tokens.count(engine.vision.image_token) == 16
    room = 4096 - len(prompt.tokens)
    engine.check(asked, Sampling(room, 0.0, 1.0, 0))
    with pytest.raises(UserError, match=f"ask for at most {room} new tokens"):
        engine.check(asked, Sampling(room + 1, 0.0, 1.0, 0))


def test_a_model_of_text_takes_no_pictures(architecture: Path, tmp_path: Path) -> None:
    engine = TransformersEngine(str(architecture))
    with pytest.raises(UserError, match=r"p: it has pictures and .* reads only text; give a"):
        ask(engine, "<image>", draw(tmp_path / "a.png", 56, 56, "red"))


def test_pictures_of_other_kinds_of_models_are_refused(architecture: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(architecture, folder)
    LlavaConfig().save_pretrained(folder)
    with pytest.raises(UserError, match="not yet as llava; use --engine vllm"):
        ask(TransformersEngine(str(folder)), "<image>", draw(tmp_path / "a.png", 56, 56, "red"))


def test_problems_hand_their_pictures_on() -> None:
    problems = [Problem("a", "<image>?", "1", ("/a.png",)), Problem("b", "?", "2")]
    asked = PROTOCOLS["sampled"].requests(problems)
    assert [request.images for request in asked] == [("/a.png",)] * 8 + [()] * 8

"""Requests with pictures: answered as transformers answers each alone, and counted before that."""

from pathlib import Path

import pytest
import torch
from vision_models import KINDS, draw, write_vision_model

from wdl.branches.vision import open_image
from wdl.generation.engine import Generation, Request, Sampling
from wdl.generation.transformers_engine import TransformersEngine

GREEDY = Sampling(24, 0.0, 1.0, 42)
SIZES = [(60, 90), (28, 28), (120, 40), (90, 90)]
TEXTS = ["<image> What?", "Plain text", "One <image>, two <image> and <image>", "<image><image>"]


@pytest.fixture(scope="module", params=KINDS)
def folder(
    request: pytest.FixtureRequest, architecture: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_vision_model(folder, architecture, request.param)


@pytest.fixture(scope="module")
def engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(str(folder))


@pytest.fixture
def requests(tmp_path: Path) -> list[Request]:
    """Twelve, with none to three pictures each."""
    made = []
    for n in range(12):
        text = TEXTS[n % 4] + f" {n}" * n
        images = tuple(
            draw(tmp_path / f"{n}-{m}.png", *SIZES[(n + m) % 4], ("red", "blue", "green")[m])
            for m in range(text.count("<image>"))
        )
        made.append(Request(f"p{n}", 0, [{"role": "user", "content": text}], images))
    return made


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

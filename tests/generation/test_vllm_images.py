"""Real vLLM with a tiny vision-language model, as our worker and as a server.

Its interpreter is .venv-vllm/bin/python, which ``make test`` sets up, or that of WDL_VLLM_PYTHON.
"""

import json
import os
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from servers import serve_vllm
from torch import Tensor
from vision_models import draw, requests_with_images, write_vision_model

from wdl.branches.vision import open_image
from wdl.config.paths import InputPath
from wdl.errors import UserError
from wdl.generation import vllm_engine
from wdl.generation.engine import Generation, Request, Sampling
from wdl.generation.local_engine import LocalEngine
from wdl.generation.openai_engine import OpenAIEngine
from wdl.generation.transformers_engine import TransformersEngine
from wdl.generation.vllm_engine import VllmEngine
from wdl.generation.vllm_options import VllmOptions
from wdl.remote.endpoint import Endpoint

INTERPRETER = Path(os.environ.get("WDL_VLLM_PYTHON", REPOSITORY / ".venv-vllm/bin/python"))
OPTIONS = VllmOptions(python=InputPath(INTERPRETER.absolute()), max_num_seqs=2)
GREEDY = Sampling(24, 0.0, 1.0, 42)
CLOSE = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_vision_model(folder)


def answers(engine: LocalEngine, requests: list[Request]) -> dict[str, Generation]:
    with closing(engine):
        return {one.id: one for part in engine.generate(requests, GREEDY) for one in part}


def test_the_worker_answers_as_transformers(folder: Path, tmp_path: Path) -> None:
    """More requests than are submitted at a time, with and without pictures."""
    requests = requests_with_images(tmp_path)
    ours, theirs = TransformersEngine(str(folder)), VllmEngine(str(folder), OPTIONS)
    assert theirs.check(requests, GREEDY) == ours.check(requests, GREEDY)
    assert theirs.software()["torchvision"]
    assert answers(theirs, requests) == answers(ours, requests)


def test_pictures_need_torchvision(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = requests_with_images(tmp_path)
    engine = VllmEngine(str(folder), OPTIONS)
    lacking = {**vllm_engine.describe_vllm(OPTIONS), "torchvision": None}
    monkeypatch.setattr(vllm_engine, "describe_vllm", lambda options: lacking)
    engine.check([one for one in requests if not one.images], GREEDY)
    with pytest.raises(UserError, match=r"vllm.python: .* has no torchvision"):
        engine.check(requests, GREEDY)


def truth(engine: TransformersEngine, request: Request) -> Tensor:
    """Log-probabilities [V] of the first token of an answer."""
    (prompt,) = engine.prompts([request], GREEDY)
    tokens = torch.tensor([prompt.tokens])
    images = [open_image(Path(image)) for image in request.images]
    with torch.no_grad():
        logits = engine.model(input_ids=tokens, **engine.vision.inputs(tokens, images)).logits
    return logits[0, -1].log_softmax(-1)


def test_a_server_reads_what_we_read(folder: Path, tmp_path: Path) -> None:
    """Two pictures in each prompt: some go as they are, some are made upright, RGB or PNG first."""
    turned = Image.Exif()
    turned[0x0112] = 6
    plain = draw(tmp_path / "plain.png", 56, 112, "red")
    made: list[tuple[str, str, dict[str, Any]]] = [
        ("lossy.jpg", "RGB", {}),
        ("turned.jpg", "RGB", {"exif": turned}),
        ("grey.png", "L", {}),
    ]
    for name, mode, options in made:
        Image.open(plain).convert(mode).save(tmp_path / name, **options)
    others = [str(tmp_path / name) for name in ("lossy.jpg", "turned.jpg", "grey.png")]
    asked = [{"role": "user", "content": "Is <image> like <image>?"}]
    requests = [
        Request(str(n), 0, asked, pair)
        for n, other in enumerate(others)
        for pair in ((plain, other), (other, plain))
    ]
    ours = TransformersEngine(str(folder))
    expected = [truth(ours, request) for request in requests]
    # pictures show: no two prompts have the same answer
    assert min((a - b).abs().max() for a in expected for b in expected if a is not b) > CLOSE
    with serve_vllm(INTERPRETER, folder, tmp_path / "log") as server:
        more = {"logprobs": True, "top_logprobs": 20, "return_tokens_as_token_ids": True}
        engine = OpenAIEngine("m", Endpoint(server.url, "tiny", extra=more))
        for request, log_probabilities in zip(requests, expected, strict=True):
            message = urllib.request.Request(
                f"{server.url}/chat/completions",
                json.dumps(engine._body(request, GREEDY)).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(message) as reply:
                (choice,) = json.load(reply)["choices"]
            first = choice["logprobs"]["content"][0]["top_logprobs"]
            tokens = [int(one["token"].removeprefix("token_id:")) for one in first]
            theirs = torch.tensor([one["logprob"] for one in first])
            assert set(log_probabilities.topk(20).indices.tolist()) == set(tokens)
            torch.testing.assert_close(theirs, log_probabilities[tokens], atol=CLOSE, rtol=0)
        (done,) = engine.generate(requests[:1], GREEDY)
        assert done[0].id == "0"

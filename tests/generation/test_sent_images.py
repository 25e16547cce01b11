"""Pictures sent to servers: the file's own bytes, or a PNG that every server reads alike."""

import base64
import io
import json
from pathlib import Path

import pytest
from PIL import Image
from servers import completion, serve
from vision_models import draw

from wdl.branches.vision import open_image
from wdl.generation.engine import Request, Sampling
from wdl.generation.journalled import answer
from wdl.generation.openai_engine import OpenAIEngine
from wdl.generation.pictures import data_uri
from wdl.remote.endpoint import Endpoint
from wdl.system.journal import Journal

SAMPLING = Sampling(9, 0.0, 1.0, 1)
TURNED = Image.Exif()
TURNED[0x0112] = 6


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(";base64,")[2])


@pytest.mark.parametrize(
    ("name", "mode", "options", "kind", "kept"),
    [
        ("a.png", "RGB", {}, "png", True),
        ("a.jpg", "RGB", {}, "jpeg", True),
        ("a.webp", "RGB", {}, "webp", True),
        ("a.bmp", "RGB", {}, "png", False),
        ("a.jpg", "L", {}, "png", False),
        ("a.png", "P", {}, "png", False),
        ("a.png", "RGBA", {}, "png", False),
        ("a.jpg", "RGB", {"exif": TURNED}, "png", False),
    ],
)
def test_what_is_sent(
    name: str, mode: str, options: dict, kind: str, kept: bool, tmp_path: Path
) -> None:
    draw(tmp_path / "drawn.png", 60, 30, "red")
    file = tmp_path / name
    Image.open(tmp_path / "drawn.png").convert(mode).save(file, **options)
    uri = data_uri(file)
    assert uri.startswith(f"data:image/{kind};base64,")
    assert (decoded(uri) == file.read_bytes()) == kept
    seen = Image.open(io.BytesIO(decoded(uri)))
    assert (seen.mode, seen.getexif().get(0x0112, 1)) == ("RGB", 1)
    assert seen.tobytes() == open_image(file).tobytes()


def test_a_server_gets_pictures_and_no_file_does(tmp_path: Path) -> None:
    pictures = tuple(draw(tmp_path / f"{colour}.png", 56, 56, colour) for colour in ("red", "blue"))
    opening = {"role": "system", "content": "Look."}
    asked = [opening, {"role": "user", "content": "<image> or <image>?"}]
    requests = [Request("a", 0, asked, pictures), Request("b", 0, [opening])]
    with serve(lambda body, n: completion("x")) as server:
        engine = OpenAIEngine("m", Endpoint(server.url, "m"))
        record = engine.check(requests, SAMPLING)
        with Journal(tmp_path / "journal", engine.describe() | record) as journal:
            answer(engine, requests, SAMPLING, journal, "")
    first, second = sorted(server.bodies, key=lambda body: -len(json.dumps(body)))
    assert second["messages"] == [opening]
    assert first["messages"][0] == opening
    red, between, blue, after = first["messages"][1]["content"]
    assert (between["text"], after["text"]) == (" or ", "?")
    for part, file in ((red, pictures[0]), (blue, pictures[1])):
        assert part["type"] == "image_url"
        assert decoded(part["image_url"]["url"]) == Path(file).read_bytes()
    assert "base64" not in (tmp_path / "journal").read_text()
    assert len((tmp_path / "journal").read_text()) < 1000
    draw(Path(pictures[0]), 56, 56, "green")
    assert engine.check(requests, SAMPLING) != record
    assert engine.check(requests[1:], SAMPLING) == {}

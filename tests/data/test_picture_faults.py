"""Pictures that cannot be what they seem: one line with the place, before anything is trained."""

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wdl.branches.vision import ImageLimits, Vision, open_image
from wdl.data.corpus import Corpus
from wdl.errors import UserError
from wdl.tiny.vision import write_tiny_vision

GOOD = Image.linear_gradient("L").resize((60, 40)).convert("RGB")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vision")
    write_tiny_vision(folder)
    return str(folder)


def data(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def huge() -> bytes:
    """A picture whose header says 60,000 x 60,000."""
    found = bytearray(data(GOOD))
    found[16:24] = struct.pack(">II", 60_000, 60_000)
    import zlib

    found[29:33] = struct.pack(">I", zlib.crc32(bytes(found[12:29])))
    return bytes(found)


def see_through() -> Image.Image:
    image = GOOD.convert("RGBA")
    image.putalpha(100)
    return image


FAULTS = {
    "empty": (b"", "no picture that can be read"),
    "text": (b"a,b,c", "no picture that can be read"),
    "a page": (b"<html>not found</html>", "no picture that can be read"),
    "cut off PNG": (data(GOOD)[:-60], "is damaged"),
    "cut off JPEG": (data(GOOD, "JPEG")[:-300], "is damaged"),
    "wrong bytes": (data(GOOD)[:60] + b"\0" * 40 + data(GOOD)[100:], "is damaged"),
    "enormous": (huge(), "has more than"),
    "moving": (
        data(GOOD, "GIF", save_all=True, append_images=[Image.new("RGB", (60, 40))]),
        "has several frames",
    ),
    "transparent": (data(see_through()), "is transparent in places"),
    "16 bits": (data(Image.new("I;16", (40, 40))), "is I;16, not RGB"),
    "CMYK": (data(GOOD.convert("CMYK"), "JPEG"), "is CMYK, not RGB"),
    "real numbers": (data(GOOD.convert("F"), "TIFF"), "is F, not RGB"),
    "a line": (data(Image.new("RGB", (3000, 2))), "the processor refuses a picture"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_pictures(
    name: str, model: str, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    content, fault = FAULTS[name]
    (tmp_path / "picture").write_bytes(content)
    row = {"prompt": "<image>What?", "completion": "This.", "images": ["picture"]}
    path = write_rows([{"prompt": "What?", "completion": "This."}, row])
    with pytest.raises(UserError, match=fault) as refused:
        _ = Corpus(str(path), model, Path("cache")).samples
    assert len(refused.value.faults) == 1
    assert refused.value.faults[0].startswith(f"{path}:2: ")
    assert len(Corpus(str(path), model, Path("cache"), on_bad_row="skip").samples) == 1


def test_what_stays_the_same_in_rgb(tmp_path: Path) -> None:
    for number, image in enumerate(
        (GOOD.convert("L"), GOOD.convert("1"), GOOD.convert("P"), GOOD.convert("RGBA"))
    ):
        file = tmp_path / f"{number}.png"
        image.save(file)
        assert open_image(file).tobytes() == image.convert("RGB").tobytes()


def test_a_turned_picture_is_upright(tmp_path: Path) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    GOOD.save(tmp_path / "turned.jpg", exif=tag)
    assert open_image(tmp_path / "turned.jpg").size == (40, 60)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "<image>?", "completion": "a"}, "says <image> and the row has no images"),
        ({"prompt": "<|image_pad|>?", "completion": "a"}, r"a text says <\|image_pad\|>"),
        (
            {"prompt": "<image>?", "completion": "<|image_pad|>", "images": ["good.png"]},
            r"a text says <\|image_pad\|>",
        ),
        (
            {"prompt": "<image><|image_pad|>?", "completion": "a", "images": ["good.png"]},
            "the prompt has room for 2 pictures and there are 1",
        ),
    ],
)
def test_marks_that_stand_for_nothing(
    row: dict[str, Any], fault: str, model: str, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    GOOD.save(tmp_path / "good.png")
    with pytest.raises(UserError, match=f"rows.jsonl:1: .*{fault}"):
        _ = Corpus(str(write_rows([row])), model, Path("cache")).samples


def test_a_model_of_text_takes_no_pictures(
    architecture: Path, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    GOOD.save(tmp_path / "good.png")
    path = write_rows([{"prompt": "<image>?", "completion": "a", "images": ["good.png"]}])
    with pytest.raises(UserError, match=r"rows\.jsonl:1: the model takes no pictures"):
        _ = Corpus(str(path), str(architecture), Path("cache")).samples
    limits = ImageLimits(max_pixels=1000)
    with pytest.raises(UserError, match=r"^data\.images: .* takes no pictures"):
        _ = Corpus(str(path), str(architecture), Path("cache"), images=limits).samples


def test_a_picture_that_changes_is_encoded_anew_or_refused(
    model: str, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    GOOD.save(tmp_path / "good.png")
    path = str(write_rows([{"prompt": "<image>?", "completion": "a", "images": ["good.png"]}]))
    before = Corpus(path, model, Path("cache"))
    rows = before.samples.to_list()
    GOOD.resize((200, 200)).save(tmp_path / "good.png")
    with pytest.raises(UserError, match=r"good\.png is not what it was at the start"):
        before.collate(rows, [0], 1)
    after = Corpus(path, model, Path("cache"))
    assert after.digest != before.digest
    assert after.samples[0]["length"] > rows[0]["length"]


def test_a_picture_that_is_gone_later(
    model: str, tmp_path: Path, write_rows: Callable[..., Path]
) -> None:
    GOOD.save(tmp_path / "good.png")
    path = str(write_rows([{"prompt": "<image>?", "completion": "a", "images": ["good.png"]}]))
    _ = Corpus(path, model, Path("cache")).records
    (tmp_path / "good.png").unlink()
    with pytest.raises(UserError, match=r"the picture .*good\.png cannot be read .* restore it"):
        _ = Corpus(path, model, Path("cache")).samples


def test_limits_of_pixels(model: str, tmp_path: Path) -> None:
    text = "<|vision_start|><|image_pad|><|vision_end|>"
    image = GOOD.resize((280, 280))
    sizes = [
        Vision(model, limits).tokens(text, [image]).count(Vision(model).image_token)
        for limits in (None, ImageLimits(max_pixels=56 * 56), ImageLimits(min_pixels=224 * 224))
    ]
    assert sizes == [64, 4, 64]
    Vision(model, ImageLimits(max_pixels=56 * 56)).save(tmp_path / "saved")
    for low, high in ((0, None), (-1, None), (100, 50)):
        with pytest.raises(UserError, match="leave no size between them"):
            ImageLimits(low, high)

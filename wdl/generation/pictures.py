"""The pictures of requests: opened, told apart by their bytes, and sent to servers."""

import base64
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wdl.branches.vision import IMAGE, ImageError, open_image, with_parts
from wdl.errors import MAX_FAULTS, UserError
from wdl.generation.engine import Request

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
SENT_AS_THEY_ARE = ("PNG", "JPEG", "WEBP")
_ORIENTATION = 0x0112  # the tag of EXIF


def opened(request: Request) -> list["Image"]:
    """The pictures of a request.

    Raises:
        ImageError: One of them cannot be read, or the messages have not a mark for each.
    """
    marks = sum(message["content"].count(IMAGE) for message in request.messages)
    if request.images and marks != len(request.images):
        raise ImageError(
            f"there are {len(request.images)} pictures for {marks} {IMAGE}; write it once for each"
        )
    return [open_image(Path(image)) for image in request.images]


def of_questions(requests: Sequence[Request], make: Callable[[Request], T]) -> list[T]:
    """What ``make`` makes of each request, once for neighbours that ask the same.

    Raises:
        UserError: One line for each question of which ``make`` raises an ImageError.
    """
    made: list[T] = []
    faults: list[str] = []
    for _, group in groupby(requests, lambda request: (request.messages, request.images)):
        same = list(group)
        try:
            made += [make(same[0])] * len(same)
        except ImageError as fault:
            faults.append(f"{same[0].id}: {fault}")
    if faults:
        raise UserError(*faults[:MAX_FAULTS], total=len(faults))
    return made


def digests(requests: Sequence[Request]) -> list[list[str]]:
    """SHA-256 of the bytes of every picture, by request."""
    paths = set(chain.from_iterable(request.images for request in requests))
    found = {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths}
    return [[found[image] for image in request.images] for request in requests]


def content_parts(request: Request) -> list[dict[str, Any]]:
    """The messages of a request as OpenAI's interface takes them, with the pictures inside."""
    images: Iterator[str] = iter(request.images)
    if not request.images:
        return request.messages
    return [
        message
        if isinstance(message["content"], str)
        else {**message, "content": [_sent(part, images) for part in message["content"]]}
        for message in with_parts(request.messages)
    ]


def _sent(part: dict[str, str], images: Iterator[str]) -> dict[str, Any]:
    if part["type"] != "image":
        return part
    return {"type": "image_url", "image_url": {"url": data_uri(Path(next(images)))}}


def data_uri(file: Path) -> str:
    """A picture as text; the file's own bytes if every server makes the same pixels of them."""
    from PIL import Image

    image, data = open_image(file), file.read_bytes()
    with Image.open(io.BytesIO(data)) as original:
        kind = original.format or ""
        plain = original.mode == "RGB" and not original.has_transparency_data
        upright = original.getexif().get(_ORIENTATION, 1) == 1
    if not (plain and upright and kind in SENT_AS_THEY_ARE):
        buffer, kind = io.BytesIO(), "PNG"
        image.save(buffer, kind)
        data = buffer.getvalue()
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"

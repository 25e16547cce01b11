"""Pictures in rows: where they stand, and the files that they are.

A row names its pictures in an "images" (or "image") column, in the order of the ``<image>`` marks
in its texts, or as parts of its messages:

    {"images": ["a.png", "b.jpg"], "prompt": "<image><image>Which one is larger?", ...}
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"},
                                               {"type": "text", "text": "What is this?"}]}, ...]}

A picture is a path, relative to the folder of the data, a ``data:`` URI, or bytes as data sets have
them in Parquet ({"bytes": ..., "path": ...}). Pictures without a file get one in the cache, named
after its content.
"""

import base64
import binascii
import hashlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from wdl.branches.vision import IMAGE
from wdl.data.rows import RowError
from wdl.system.files import write_bytes

COLUMNS = ("images", "image")
PICTURES = Path("runs/cache/images")
"""Where pictures without a file of their own are, unless something else is said."""
TALKS = ("messages", "conversations", "prompt", "question", "instruction", "chosen", "rejected")
"""Keys with messages, which may have parts."""
SOURCES = ("image", "path", "url", "image_url")
"""Keys of a part that say where its picture is."""
PARTS = {"text": ("text",), "image": SOURCES, "image_url": SOURCES}
"""Types of parts, and the keys that are read of each."""


def take_images(row: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """A row without its pictures, each of which is a mark in the texts; and the pictures.

    Raises:
        RowError: What stands for a picture is none, or the texts have another number of marks.
    """
    columns = [key for key in COLUMNS if row.get(key) not in (None, [], {}, "")]
    if len(columns) > 1:
        raise RowError("the row has both 'images' and 'image'; keep one of them")
    given: list[Any] = []
    if columns:
        value = row[columns[0]]
        given = list(value) if isinstance(value, list) else [value]
    plain = {key: value for key, value in row.items() if key not in COLUMNS}
    inline: list[Any] = []
    for key in [key for key in TALKS if key in row]:
        found: list[Any] = []
        plain[key] = _plain(row[key], found)
        if found and inline and found != inline:
            raise RowError(f"{key!r} has other pictures than what goes before; let them be alike")
        inline = found or inline
    empty = [source for source in inline if source is None]
    if len(empty) < len(inline):
        if empty or given:
            raise RowError(
                "pictures stand both in the messages and in a column, or some without a source; "
                "give all of them one way"
            )
        given = inline
    elif empty and not given:
        raise RowError("a message has a picture without a source, and the row no 'images'")
    return plain, given


def check_marks(
    messages: Sequence[Mapping[str, str]], answers: Sequence[str], images: Sequence[Any]
) -> None:
    """Refuse a row with another number of marks than pictures."""
    if not images:
        return
    if any(IMAGE in answer for answer in answers):
        raise RowError(f"the answer says {IMAGE}; a model answers in text, so drop it")
    marks = sum(message["content"].count(IMAGE) for message in messages)
    if marks != len(images):
        raise RowError(
            f"the texts have {marks} {IMAGE} and the row has {len(images)} pictures; write {IMAGE} "
            "once where each belongs"
        )


def _plain(value: Any, images: list[Any]) -> Any:
    """The value at a key of a row, in whose messages parts have become texts with marks."""
    if isinstance(value, list):
        return [_plain(one, images) if isinstance(one, dict) else one for one in value]
    if not isinstance(value, dict):
        return value
    parts = {key: value[key] for key in ("content", "value") if isinstance(value.get(key), list)}
    return {**value, **{key: _joined(text, images) for key, text in parts.items()}}


def _joined(parts: list[Any], images: list[Any]) -> str:
    said = ""
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in PARTS:
            raise RowError(f"a message has a part of type {kind!r}; only text and image are read")
        for key, value in part.items():
            if value is not None and key not in ("type", *PARTS[kind]):
                raise RowError(f"{key!r} in a part of type {kind!r} is not read; drop it")
        if kind != "text":
            images.append(_source(part))
            said += IMAGE
            continue
        text = part.get("text")
        if not isinstance(text, str):
            raise RowError("a part of type 'text' has no text; give it one or drop it")
        if IMAGE in text:
            raise RowError(f"a text beside pictures says {IMAGE}; leave the mark to its part")
        said += text
    return said


def _source(part: dict[str, Any]) -> Any:
    given = [part[key] for key in SOURCES if part.get(key) is not None]
    if len(given) > 1:
        raise RowError("a picture has several sources; keep one")
    if given and isinstance(given[0], dict) and "url" in given[0]:
        return given[0]["url"] or ""
    return given[0] if given else None


def image_file(source: Any, folder: Path | None, store: Path) -> str:
    """The absolute path of a picture's file.

    Args:
        source: What the row says of it.
        folder: What a path is relative to; None if there is none, as in a data set of the hub.
        store: Gets what has no file.

    Raises:
        RowError: There is no such file, or the source is none.
    """
    if isinstance(source, dict) and isinstance(source.get("bytes"), bytes):
        source = source["bytes"]
    elif isinstance(source, dict) and isinstance(source.get("path"), str):
        source = source["path"]
    if isinstance(source, bytes):
        return _stored(source, store)
    if not isinstance(source, str) or not source.strip():
        raise RowError(f"a picture is a path, a data: URI or bytes, this is {source!r:.60}")
    if source.startswith("data:"):
        head, _, text = source.partition(",")
        try:
            if not head.endswith(";base64"):
                raise ValueError("it is not base64")
            return _stored(base64.b64decode(text, validate=True), store)
        except (binascii.Error, ValueError) as error:
            raise RowError(f"a picture's data: URI is broken ({error}); mend it") from None
    if source.lower().startswith(("http://", "https://")):
        raise RowError(f"{source:.200} is not on this machine; download it and give its path")
    address = source.removeprefix("file://")
    path = os.path.expanduser(source if address == source else unquote(address))
    if folder is None and not os.path.isabs(path):
        raise RowError(f"{source:.200} is relative to no file; give whole paths or bytes")
    path = os.path.abspath(os.path.join(folder or "/", path))
    if not os.path.isfile(path):
        raise RowError(
            f"there is no picture {path:.400}; paths are relative to the folder of the data"
        )
    return path


def _stored(data: bytes, store: Path) -> str:
    file = store.resolve() / f"{hashlib.sha256(data).hexdigest()}.{_format(data)}"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, data)
    return str(file)


def _format(data: bytes) -> str:
    """What it is, by its head; whether it is whole is seen when it is encoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return str(Image.open(io.BytesIO(data)).format).lower()
    except Image.DecompressionBombError as error:
        raise RowError(f"a picture is enormous ({error}); reduce it") from None
    except (OSError, ValueError, SyntaxError):
        raise RowError("a picture's bytes are none that can be read; give a PNG or JPEG") from None

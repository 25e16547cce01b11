"""Content hashes, so that results know what they were made from."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of ``files``, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def content_digest(file: Path) -> str:
    """SHA-256 of a file as it is, whatever its name."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def value_digest(value: Any) -> str:
    """SHA-256 of a value that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def lot(*names: str | int) -> float:
    """A number in [0, 1) that is drawn by the hash of ``names``."""
    digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56

"""Content hashes of files and models, so that results know what they were made from."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import AutoConfig


def files_digest(files: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of ``files``, in the order given."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def model_digest(source: str) -> str:
    """What tells one branch from another: its files, or the commit of a model on the hub."""
    folder = Path(source)
    if folder.is_dir():
        return files_digest(sorted(p for p in folder.iterdir() if p.is_file()))
    return f"{source}@{AutoConfig.from_pretrained(source)._commit_hash}"


def value_digest(value: Any) -> str:
    """SHA-256 of a value that JSON can write."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

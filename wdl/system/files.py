"""Files and folders that are either complete or not there at all."""

import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from wdl.errors import UserError

BESIDE = 40
"""Bytes by which the names of a file's journal, summary and unfinished copies exceed its own."""


def refuse_unwritable(path: Path, option: str) -> None:
    """Look whether ``path`` can be made, with the folders that it lies in.

    Raises:
        UserError: It cannot.
    """
    nearest = next(place for place in path.absolute().parents if os.path.exists(place))
    if not nearest.is_dir():
        raise UserError(f"{option}: {nearest} is a file; choose another place")
    longest = max(len(os.fsencode(part)) for part in path.absolute().parts)
    if longest > (most := os.pathconf(nearest, "PC_NAME_MAX") - BESIDE):
        raise UserError(f"{option} {path}: a name of {longest} bytes; it has at most {most}")
    try:
        TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise UserError(
            f"{option}: {nearest} cannot be written to ({error.strerror}); choose another"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write ``path`` so that a reader, or a kill, never meets half of it."""
    _write(path, [text.encode()])


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` in the same way."""
    _write(path, [data])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write ``lines`` to ``path`` in the same way, without holding all of them."""
    _write(path, (f"{line}\n".encode() for line in lines))


def _write(path: Path, parts: Iterable[bytes]) -> None:
    partial = _unfinished(path)
    with partial.open("wb") as stream, _held(partial):
        stream.writelines(parts)
        stream.flush()
        os.fsync(stream.fileno())
        partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which becomes ``path`` only when the block ends without an error."""
    partial = _unfinished(path)
    shutil.rmtree(partial, ignore_errors=True)  # of one with this number, on a disk without locks
    partial.mkdir()
    try:
        with _held(partial):
            yield partial
            for file in partial.rglob("*"):
                sync(file)
            partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unfinished(path: Path) -> Path:
    """A name beside ``path`` for this process to write to; what killed ones left there goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        with suppress(OSError), _opened(left) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Lock a file or folder, so that others see that its writer lives."""
    with _opened(path) as descriptor:
        with suppress(OSError):  # some network disks lock nothing; then what is left stays
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def replace_folder(new: Path, path: Path) -> None:
    """Give ``new`` the name ``path``, in place of what has that name, if anything.

    A kill in between leaves the old one as ``.old.NAME``.
    """
    old = path.with_name(f".old.{path.name}")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        path.replace(old)
    new.replace(path)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Make sure that what was written to a file or folder has reached the disk."""
    with _opened(path) as descriptor:
        os.fsync(descriptor)

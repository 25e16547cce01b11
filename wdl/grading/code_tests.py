"""The tests of a programming problem, as a text that takes little room."""

import base64
import binascii
import io
import json
import pickle
import zlib
from typing import Any

from wdl.data.rows import RowError

_LARGEST = 1 << 30  # bytes of the tests of one problem, unpacked


def read_tests(text: str) -> dict[str, Any]:
    """The tests of a problem.

    Returns:
        ``style`` is ``check``, ``unittest``, ``call`` or ``stdin``; ``entry`` what the answer must
        define, if anything; ``before`` code of the prompt that stands before it; ``prompt`` what an
        answer may go on from; ``setup`` and ``tests`` their code, or inputs with outputs;
        ``called`` whether ``check`` is to be called; ``libs`` what they need to be installed.
    """
    tests = json.loads(text)
    if isinstance(tests["tests"], str) and tests["style"] in ("call", "stdin"):
        public, private = json.loads(tests["tests"])
        tests["tests"] = [*read_cases(public, "public_test_cases"), *unpack_cases(private)]
    return tests


def read_cases(value: Any, key: str) -> list[dict[str, Any]]:
    """Inputs with their outputs, from JSON or as they are; raises RowError."""
    cases = read_json(value, key) if isinstance(value, str) else value
    fields = ("input", "output", "testtype")
    if not isinstance(cases, list) or not all(
        isinstance(one, dict) and all(isinstance(one.get(field), str) for field in fields)
        for one in cases
    ):
        raise RowError(f"{key!r} must be a list of objects with input, output and testtype")
    if strange := {case["testtype"] for case in cases} - {"stdin", "functional"}:
        raise RowError(f"{key!r} has a testtype {min(strange)!r}; it is stdin or functional")
    return cases


def unpack_cases(value: Any) -> list[dict[str, Any]]:
    """Private tests: JSON, or a pickled text of it that is compressed and in base 64."""
    key = "private_test_cases"
    if not isinstance(value, str) or value.lstrip().startswith("["):
        return read_cases(value, key)
    try:
        opened = zlib.decompressobj()
        data = opened.decompress(base64.b64decode(value, validate=True), _LARGEST)
        if opened.unconsumed_tail or not opened.eof:
            raise ValueError
        text = _TextOnly(io.BytesIO(data)).load()
    except (ValueError, binascii.Error, zlib.error, EOFError, IndexError, pickle.UnpicklingError):
        raise RowError(f"{key!r} is neither JSON nor a packed text; load the set again") from None
    if not isinstance(text, str | bytes):
        raise RowError(f"{key!r} packs something else than a text; load the set again")
    return read_cases(text if isinstance(text, str) else text.decode(errors="replace"), key)


class _TextOnly(pickle.Unpickler):
    """Builds texts, numbers and lists; a pickle that names anything else could run it."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("a reference to another file")


def read_json(text: str, key: str) -> Any:
    """The value of a text of JSON; raises RowError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise RowError(f"{key!r} is not JSON; load the set again") from None

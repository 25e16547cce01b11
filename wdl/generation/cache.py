"""Answers by all that decides about them, in a file that runs and processes share.

The file is an SQLite database, which several processes may use at a time, on a disk that locks
(most network disks do not, well). Nothing is ever removed from it; it may be deleted at any time.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wdl.errors import UserError
from wdl.generation.engine import Key, Request, Sampling
from wdl.generation.pictures import digests
from wdl.system.digests import value_digest

WAIT = 60.0  # seconds for another process that writes
_AT_ONCE = 500  # keys of one question, of which SQLite takes about a thousand


class AnswerCache:
    """Answers that any run has generated.

    Args:
        path: The file; created if it is not there.

    Raises:
        UserError: It is something else, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, timeout=WAIT)
            with self._database:
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)"
                )
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"--cache {path}: it is no file of answers that can be used ({error}); remove it "
                "or choose another"
            ) from None

    def find(self, keys: Mapping[Key, str]) -> list[dict[str, Any]]:
        """The answers that are there, each as that of the request that asks for it."""
        wanted = sorted(set(keys.values()))
        found: dict[str, str] = {}
        for start in range(0, len(wanted), _AT_ONCE):
            block = wanted[start : start + _AT_ONCE]
            marks = ", ".join("?" * len(block))
            question = f"SELECT key, answer FROM answers WHERE key IN ({marks})"
            found |= dict(self._database.execute(question, block))
        return [
            {"id": id_, "sample": sample, **json.loads(found[key])}
            for (id_, sample), key in keys.items()
            if key in found
        ]

    def add(self, keys: Mapping[Key, str], entries: Sequence[Mapping[str, Any]]) -> None:
        """Keep answers; one that is there already stays as it is."""
        rows = []
        for entry in entries:
            kept = {name: value for name, value in entry.items() if name not in ("id", "sample")}
            text = json.dumps(kept, ensure_ascii=False)
            rows.append((keys[entry["id"], entry["sample"]], text))
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?)", rows)

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def content_keys(
    described: Mapping[str, Any], requests: Sequence[Request], sampling: Sampling
) -> dict[Key, str]:
    """Hash of all that decides about each answer.

    Args:
        described: The model and the engine, as :meth:`Engine.describe` says.
        requests: What is asked. Names of problems count only where they seed a draw.
        sampling: How tokens are chosen.
    """
    drawn = sampling.temperature > 0
    limits = [sampling.max_new_tokens, sampling.temperature, sampling.top_p]
    context = value_digest([described, limits])
    return {
        request.key: value_digest(
            [
                context,
                request.messages,
                request.template,
                pictures,
                sampling.seed_of(request) if drawn else None,
            ]
        )
        for request, pictures in zip(requests, digests(requests), strict=True)
    }

"""Attempts for tests, written as the verbs write them."""

import json
from pathlib import Path
from typing import Any

import pytest

from wdl.cli import main
from wdl.rounds.pool import question_id


def attempt(question: str, number: int, verdict: str | None = None, **more: Any) -> dict[str, Any]:
    """One attempt, whose text says which it is."""
    row = {
        "id": question_id(question),
        "attempt": number,
        "messages": [{"role": "user", "content": question}],
        "answer": "1",
        "completion": f"{verdict} {number}",
        "finish_reason": "stop",
        "new_tokens": 5,
    }
    judged = {"verdict": verdict, "stated": "1", "detail": ""} if verdict else {}
    return {**row, **judged, **more}


def graded(question: str, letters: str) -> list[dict[str, Any]]:
    """Attempts at a question: r is right, w is wrong, u is ungraded."""
    names = {"r": "right", "w": "wrong", "u": "ungraded"}
    return [attempt(question, number, names[x]) for number, x in enumerate(letters)]


def write(file: str, rows: list[dict[str, Any]]) -> str:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def read(file: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command says that ends in nothing but faults."""
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("wdl: error: ") for line in lines)
    return "\n".join(lines)

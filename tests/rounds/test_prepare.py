"""``wdl prepare``: what is kept and why, and that no interruption changes the result."""

import json
from pathlib import Path

import pytest
import zstandard

from wdl.cli import main
from wdl.data.records import RecordReader
from wdl.rounds import prepare as module


def row(completion: str, reference: str | None = "0.5", question: str = "1/2?") -> dict:
    return {
        "messages": [
            {"role": "user", "content": question, "info": {"reference_answer": reference}},
            {"role": "assistant", "content": completion, "info": {"answer_content": "..."}},
        ]
    }


def answered(text: str) -> str:
    return f"<think>Half.</think>\n<answer>It is {text}.</answer>"


ROWS = [
    row(answered(r"\boxed{\frac{1}{2}}")),
    row(answered(r"\boxed{0.50}")),
    row(answered(r"\boxed{2}")),  # wrong
    row(answered("0.5")),  # no box
    row(r"<answer>\boxed{0.5}</answer>"),  # no thinking
    row(answered(r"\boxed{0.5}") + " Bye."),  # something after the answer
    row(answered(r"\boxed{0.5}"), reference=None),
    {"messages": []},
    row(answered(r"\boxed{x+1}"), reference="1+x"),
]
DROPPED = ["3 dropped: other format", "2 dropped: broken row", "1 dropped: wrong answer"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two compressed files, one with a line that is no JSON."""
    folder = tmp_path / "data"
    folder.mkdir()
    lines = [json.dumps(one) + "\n" for one in ROWS]
    for name, text in (("a", "".join(lines[:5]) + "{oops\n"), ("b", "".join(lines[5:]))):
        (folder / f"{name}.jsonl.zst").write_bytes(zstandard.compress(text.encode()))
    return folder


def prepare(folder: Path, out: str) -> None:
    main(["prepare", "--data", str(folder), "--out", out, "--workers", "1"])


def test_what_is_kept_and_why(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(folder, "out.jsonl")
    reader = RecordReader([Path("out.jsonl")])
    assert [record["completion"] for _, record in reader] == [
        ROWS[n]["messages"][1]["content"] for n in (0, 1, 8)
    ]
    assert reader.idx().tolist() == [0, 1, 2]
    printed = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == "3 of 10 rows kept: out.jsonl"
    assert printed[1:4] == DROPPED
    prepare(folder, "out.jsonl")  # finished: says the same and does nothing
    again = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert again == ["out.jsonl: there already, made from the same inputs", *printed]


@pytest.mark.parametrize("cut", [0, 3, 40])
def test_interruptions_change_nothing(
    cut: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 2)
    prepare(folder, "whole.jsonl")
    verdicts, blocks = module._verdicts, []

    def fail_at_the_third(*args: object) -> object:
        blocks.append(args)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return verdicts(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "_verdicts", fail_at_the_third)
    with pytest.raises(SystemExit):
        prepare(folder, "killed.jsonl")
    journal = Path(".killed.jsonl.journal")
    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(whole) - cut])  # as a kill may leave it
    monkeypatch.setattr(module, "_verdicts", verdicts)
    prepare(folder, "killed.jsonl")
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not journal.exists()


def test_another_result_is_not_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.jsonl").write_text("precious")
    with pytest.raises(SystemExit):
        prepare(folder, "out.jsonl")
    assert "out.jsonl: it was made with another data, limit" in capsys.readouterr().err
    assert Path("out.jsonl").read_text() == "precious"

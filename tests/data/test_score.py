"""``wdl score``: the file it writes, and that no kill changes a byte of it."""

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from conftest import encode
from transformers import AutoModelForCausalLM, AutoTokenizer

from wdl.cli import main
from wdl.data import score_store as store
from wdl.data.encoding import end_of_turn

KILLS = int(os.environ.get("WDL_TEST_KILLS", 3))


@pytest.fixture
def options(sums: Path, pair: tuple[Path, Path]) -> list[str]:
    return ["--model", str(pair[0]), "--data", str(sums)]


def read(file: str) -> list[dict]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def test_every_sample_has_its_entropy(
    options: list[str], sums: Path, pair: tuple[Path, Path]
) -> None:
    main(["score", *options, "--out", "h.jsonl"])
    model = AutoModelForCausalLM.from_pretrained(pair[0]).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(pair[0])
    rows = read("h.jsonl")
    assert [row["idx"] for row in rows] == list(range(40))
    for row, record in list(zip(rows, read(str(sums)), strict=True))[::7]:
        question = [{"role": "user", "content": record["instruction"]}]
        sample = encode(tokenizer, question, record["output"], end_of_turn(tokenizer))
        with torch.no_grad():
            logits = model(torch.tensor([sample["input_ids"]])).logits[0]
        p = logits[sample["prompt_length"] - 1 : -1].softmax(-1)
        expected = -torch.xlogy(p, p).sum(-1).mean().item()
        assert row["entropy_0"] == pytest.approx(expected, rel=1e-5)


def test_a_second_branch_is_written_beside_the_first(
    options: list[str], pair: tuple[Path, Path]
) -> None:
    main(["score", *options, "--out", "h0.jsonl"])
    second = ["score", *options, "--model", str(pair[1]), "--key", "entropy_1"]
    main([*second, "--add_to", "h0.jsonl", "--out", "h01.jsonl"])
    main([*second, "--out", "h1.jsonl"])
    expected = [a | b for a, b in zip(read("h0.jsonl"), read("h1.jsonl"), strict=True)]
    assert read("h01.jsonl") == expected


def test_a_finished_file_is_not_scored_again(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["score", *options, "--out", "h.jsonl"])
    before = Path("h.jsonl").stat().st_mtime_ns
    monkeypatch.setattr("wdl.branches.loading.load_branch", None)
    main(["score", *options, "--out", "h.jsonl"])
    assert Path("h.jsonl").stat().st_mtime_ns == before
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last == ["h.jsonl: scored already", "40 entropies: h.jsonl"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "./nowhere"], "--model: there is no folder"),
        (["--data", "nothing.jsonl"], "nothing.jsonl: there is no such file"),
        (["--max_length", "3"], "holds no sample that is short enough"),
        (["--max_length", "60"], "h.jsonl: it was made with another max_length; results"),
        (["--system_prompt", "paper"], "h.jsonl: it was made with another system_prompt;"),
        (["--add_to", "h.jsonl"], "--key entropy_0: "),
        (["--add_to", "h9.jsonl"], "h9.jsonl: there is no such file of scores"),
        (
            ["--add_to", "part.jsonl", "--out", "new.jsonl", "--key", "b"],
            "part.jsonl: 39 of 40 samples have no score, idx 0, 1, 2, 3, 4, ...;",
        ),
    ],
)
def test_mistakes(
    flags: list[str], message: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["score", *options, "--out", "h.jsonl"])
    Path("part.jsonl").write_text('{"idx": 39, "a": 1}\n')
    with pytest.raises(SystemExit) as end:
        main(["score", *options, "--out", "h.jsonl", *flags])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def score_alone(rank: int, world: int, options: list[str]) -> None:
    """`wdl score` as one of several processes, with many small batches."""
    torch.set_num_threads(1)
    store.TOKENS_PER_BATCH = 64
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    main(["score", *options])


def start(world: int, options: list[str]) -> list[BaseProcess]:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["wdl.data.score_store"])
    ranks: list[BaseProcess] = [
        processes.Process(target=score_alone, args=(rank, world, options)) for rank in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks


def wait(ranks: list[BaseProcess]) -> list[int | None]:
    for process in ranks:
        process.join()
    return [process.exitcode for process in ranks]


def committed() -> int:
    """Bytes that the first process has written."""
    return sum(file.stat().st_size for file in Path().glob(".killed.jsonl.parts/0-*"))


def test_kills_change_no_byte(write_rows: Callable[..., Path], pair: tuple[Path, Path]) -> None:
    rows = [{"prompt": f"{n}?", "completion": "7" * (1 + n % 90)} for n in range(400)]
    options = ["--data", str(write_rows(rows)), "--model", str(pair[0]), "--out"]
    assert wait(start(1, [*options, "whole.jsonl"])) == [0]
    moments = random.Random(0)
    for attempt in range(KILLS):
        before = committed()
        ranks = start(1 + attempt % 2, [*options, "killed.jsonl"])
        while committed() == before:
            assert ranks[0].is_alive()
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        for process in ranks:
            process.kill()
        wait(ranks)
    assert not Path("killed.jsonl").exists()
    assert wait(start(2, [*options, "killed.jsonl"])) == [0, 0]
    assert Path("killed.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not list(Path().glob(".killed.jsonl.parts/*.jsonl"))

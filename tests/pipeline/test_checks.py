"""``--dry_run`` and ``status --full``: the whole logic, and nothing that runs or is written."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wdl.cli import main
from wdl.pipeline import checks, inputs

STAGES = """
here: .
stages:
- name: plain
  command: compare a b
- rounds: 2
  first: {{model: "{model}"}}
  next: {{model: "{{train}}/model"}}
  stages:
  - name: score
    environment: {{CUDA_VISIBLE_DEVICES: "0"}}
    command: score --model {{model}} --data {data} --out {{score}}/e.jsonl --key {key}
  - {{name: train, from_round: 2, command: "tiny --folder {{train}}"}}
- {{name: last, command: "compare {{all:score}} {{model}}"}}
"""


@pytest.fixture
def address() -> Iterator[str]:
    """Of a server that knows nothing, and says so."""
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def write(model: Path | str, data: Path | str, key: str = "entropy") -> None:
    Path("mine.yaml").write_text(STAGES.format(model=model, data=data, key=key))


def fails(*words: str) -> None:
    with pytest.raises(SystemExit) as end:
        main([*words, "--config", "mine.yaml"])
    assert end.value.code == 2


def test_a_dry_run_says_what_would_become_of_each_stage(
    make_branch: Callable[..., Path], sums: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    branch = make_branch(seed=1)
    write(branch, sums)
    before = sorted(Path().rglob("*"))
    main(["pipeline", "--config", "mine.yaml", "--dry_run", "true"])
    assert sorted(Path().rglob("*")) == before
    lines = capsys.readouterr().out.splitlines()
    root = Path("runs/pipeline").absolute()
    assert [line for line in lines if "/6] " in line] == [
        "[1/6] plain: run: it has not run yet",
        "[2/6] score-1: run: it has not run yet",
        "[3/6] train-1: skip: it begins in round 2",
        "[4/6] score-2: run: it has not run yet",
        "[5/6] train-2: run: it has not run yet",
        "[6/6] last: run: it has not run yet",
    ]
    score = f"CUDA_VISIBLE_DEVICES=0 wdl score --model {branch} --data {sums}"
    assert f"    {score} --out {root}/score-2/e.jsonl --key entropy" in lines
    assert lines[-1].strip() == f"wdl compare {root}/score-1 {root}/score-2 {root}/train-2/model"


def test_a_dry_run_finds_what_a_run_would_refuse(
    sums: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("/none", sums)
    fails("pipeline", "--dry_run", "true")
    error = capsys.readouterr().err
    assert "stage score-1: model: there is no /none, and no earlier stage writes it" in error
    assert not Path("runs").exists()


def test_the_status_of_what_never_ran_parses_nothing(
    sums: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("/none", sums)
    monkeypatch.setattr(inputs, "parse", lambda _: pytest.fail("parsed"))
    main(["pipeline", "status", "--config", "mine.yaml"])
    out = capsys.readouterr().out
    assert (out.count("waiting"), out.count("it begins in round 2")) == (5, 1)


def test_a_full_status_of_what_is_sound(
    make_branch: Callable[..., Path],
    sums: Path,
    address: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    branch = make_branch(seed=1)
    write(branch, sums, address)
    main(["pipeline", "status", "--config", "mine.yaml", "--full", "true"])
    out = capsys.readouterr().out
    assert f"sound model  {branch}\n" in out
    assert f"there        {sums}\n" in out
    assert f"answers 501  {address}\n" in out
    assert "GB free at" in out
    assert "next: plain, as it has not run yet: wdl compare a b" in out
    assert not Path("runs").exists()


def test_a_full_status_names_all_that_is_wrong(
    make_branch: Callable[..., Path], sums: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    branch = make_branch(seed=1)
    (branch / "model.safetensors").write_bytes(b"\0" * 9)
    write(branch, "nobody/nothing:train", "http://127.0.0.1:9/v1")
    fails("pipeline", "status", "--full", "true")
    lines = capsys.readouterr().err.splitlines()
    model, data, key = (line for line in lines if line.startswith("wdl: error: "))
    assert f"stage score-1: model: {branch} has a damaged model.safetensors" in model
    assert "stage score-1: data: nobody/nothing:train is not to be had from the hub" in data
    assert "stage score-1: key: http://127.0.0.1:9/v1 does not answer" in key


def test_the_hub_is_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    with pytest.raises(checks.UserError, match=r"x: a/b is not to be had from the hub \(501\)"):
        checks._look("a/b", "x")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(Path.cwd()))
    Path("datasets--a--b").mkdir()
    assert checks._look("a/b:train", "x") == "in the cache"

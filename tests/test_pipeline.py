"""Stages run in order, each once; what changed runs again, and what follows it."""

from pathlib import Path

import pytest

from wdl.cli import main
from wdl.errors import UserError
from wdl.paths import InputPath
from wdl.pipeline import Stage, run_pipeline

# the quickest of all commands, and the same one spelled differently
FIRST, CHANGED, SECOND = Stage("first", "--help"), Stage("first", "-h"), Stage("second", "-h")


def run(*stages: Stage) -> None:
    run_pipeline(InputPath(Path.cwd()), list(stages), "out")


def finished(name: str) -> int:
    """When a stage was last finished, in nanoseconds."""
    return (Path("out") / name / "done.json").stat().st_mtime_ns


def test_a_finished_stage_is_skipped(capfd: pytest.CaptureFixture[str]) -> None:
    run(FIRST, SECOND)
    before = finished("first"), finished("second")
    assert capfd.readouterr().out.count("usage: wdl") == 2
    run(FIRST, SECOND)
    assert (finished("first"), finished("second")) == before
    assert capfd.readouterr().out.count("done, skipped") == 2


def test_a_changed_stage_runs_again_and_so_do_those_after_it() -> None:
    run(FIRST, SECOND)
    first, second = finished("first"), finished("second")
    run(FIRST, Stage("second", "--help"))
    assert finished("first") == first
    assert finished("second") > second
    second = finished("second")
    run(CHANGED, Stage("second", "--help"))
    assert finished("first") > first
    assert finished("second") > second


def test_a_changed_file_counts_as_a_change() -> None:
    Path("settings.yaml").write_text("seed: 1")
    stage = Stage("first", "--help {here}/settings.yaml")
    run(stage)
    first = finished("first")
    Path("settings.yaml").write_text("seed: 2")
    run(stage)
    assert finished("first") > first


def test_what_an_older_run_left_is_kept() -> None:
    run(FIRST)
    Path("out/first/result").touch()
    run(CHANGED)
    assert Path("out/first.superseded-1/result").exists()
    assert not Path("out/first/result").exists()


def test_a_failed_stage_stops_and_is_tried_again() -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=r"stage second failed with exit code 2"):
            run(FIRST, Stage("second", "nonsense"), Stage("third", "-h"))
        assert not Path("out/second/done.json").exists()
        assert not Path("out/third").exists()


def test_a_name_that_nothing_gives() -> None:
    with pytest.raises(UserError, match=r"'first' names \{third\}"):
        run(Stage("first", "tiny --folder {third}/data"))


def test_a_pipeline_in_yaml(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "mine.yaml").write_text(
        "here: .\nstages:\n- name: data\n  command: tiny --folder {here}/made\n"
    )
    main(["pipeline", "--config", "elsewhere/mine.yaml", "--root", "out"])
    assert (folder / "made" / "train.jsonl").is_file()
    assert (tmp_path / "out" / "data" / "done.json").is_file()

"""What a new user sees of a first, short run: where it writes, what it says, and what follows."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import CONFIGS
from events import read_events
from transformers import AutoModelForCausalLM

from wdl.fit import run
from wdl.system.outcome import VARIABLE, read_outcome
from wdl.training.run_folder import RunFolder, newest_start

SCALE_ONLY = "--model.weak null --model.lam 0.5 --data.selection.weights uniform"
"""The control that has only the method's scale, as README writes it."""


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """A function that gives what was on the screen since it was last called, in its order."""
    logger, handler = logging.getLogger("lightning.pytorch"), logging.Handler()
    handler.emit = lambda record: print(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    yield lambda: capsys.readouterr().out
    logger.removeHandler(handler)


@pytest.fixture
def flags(sums: Path, pair: tuple[Path, Path]) -> list[str]:
    """Of four optimizer steps."""
    sizes = "--data.batch_size=8 --data.micro_batch_size=4 --data.val_fraction=0.2"
    ends = "--trainer.strategy=auto --trainer.max_steps=4 --evaluation.benchmark=null"
    given = [f"--model.strong={pair[0]}", f"--data.path={sums}", "--evaluation.sft_control=false"]
    config = ["--config", str(CONFIGS / "joint.yaml")]
    return [*config, *given, *SCALE_ONLY.split(), *sizes.split(), *ends.split(), "--runs=elsewhere"]


def test_a_short_run_and_the_same_again(
    flags: list[str],
    shown: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = [*flags, "--trainer.enable_progress_bar=true"]  # there is no terminal
    run(["fit", *flags])
    first = tmp_path / "elsewhere" / "joint" / "version_0"
    assert not (tmp_path / "runs").exists() and (first.parents[1] / "cache").is_dir()
    assert len(read_events(first).Scalars("train/loss")) == 4
    screen, folder = shown(), RunFolder(first)
    assert "trainer.log_every_n_steps (10) are more than there are" in screen
    size = AutoModelForCausalLM.from_pretrained(folder.strong).num_parameters()
    assert f"\nstrong: Qwen3ForCausalLM, {size:,} parameters, all train\n" in screen
    assert "FLOPs" not in screen and "summary" not in screen
    assert screen.index(" 8/10 ") < screen.index("exported the strong branch")
    assert screen.rstrip().endswith("results.json")

    monkeypatch.setenv(VARIABLE, "outcome.json")
    with pytest.raises(SystemExit) as end:
        run(["fit", *flags, "--ckpt_path=last"])
    assert end.value.code == 0
    assert "version_0: trained already, with these options and data" in shown()
    assert read_outcome(Path("outcome.json"))[0]["steps"] == 4
    assert sorted(path.name for path in first.parent.iterdir()) == ["latest", "version_0"]

    # with a step to go there is something to do
    run(["fit", *flags, "--ckpt_path=last", "--trainer.max_steps=5"])
    assert newest_start(first.parent).path.name == "version_1"  # type: ignore[union-attr]


def test_other_data_are_not_the_same_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "version_0")
    assert not folder.is_done("a: 1\n", "d")
    folder.strong.mkdir(parents=True)
    folder.config.write_text("a: 1\n")
    folder.results.write_text('{"data_sha256": "d"}')
    assert folder.is_done("a: 1\n", "d")
    assert not folder.is_done("a: 2\n", "d") and not folder.is_done("a: 1\n", "e")
    folder.results.write_text("{}")  # of an earlier version
    assert not folder.is_done("a: 1\n", "d")


def test_a_disk_without_symbolic_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    starts = [RunFolder(tmp_path / "mine" / f"version_{number}") for number in (2, 10)]
    for start in starts:
        start.path.mkdir(parents=True)
    monkeypatch.setattr("os.symlink", refuses)  # what exFAT says
    with pytest.warns(UserWarning, match="no symbolic links .* is in .*version_10$"):
        starts[1].become_latest()
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "version_10",
        "version_2",
    ]
    assert RunFolder.latest(tmp_path, "mine").path == starts[1].path
    monkeypatch.undo()
    starts[0].become_latest()
    assert RunFolder.latest(tmp_path, "mine").path.name == "latest"

"""What counts as a change: contents, and nothing else."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import wdl
from wdl.errors import UserError
from wdl.pipeline import inputs as module
from wdl.pipeline.inputs import Fingerprints, StepInputs
from wdl.pipeline.stages import Step

OLD = (1_000_000_000, 1_000_000_000)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "weights").write_text("1234")
    return folder


def of(path: Path) -> str:
    return Fingerprints(Path("memory")).of(path)


def digests(steps: Sequence[Step], reads: Sequence[dict[str, str]], root: Path) -> list[str]:
    found = StepInputs(steps, root.parent, root, Fingerprints(Path("memory")), reads)
    found.check()
    return [found.digest(number, "before") for number in range(len(steps))]


def test_a_folder_is_the_names_and_contents_of_its_files(model: Path) -> None:
    before = of(model)
    for path in (model, model / "config.json", model / "deep" / "weights"):
        os.utime(path, OLD)
    assert of(model) == before
    assert of(model.rename("moved")) == before
    weights = Path("moved/deep/weights")
    weights.write_text("1235")
    assert of(Path("moved")) != before
    weights.write_text("1234")
    assert of(Path("moved")) == before
    weights.rename("moved/deep/other")
    assert of(Path("moved")) != before


def test_contents_are_read_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLED", 0)
    weights = model / "deep" / "weights"
    first = Fingerprints(Path("memory"))
    before = first.of(weights)
    first.save()
    with monkeypatch.context() as patch:
        patch.setattr(module.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert Fingerprints(Path("memory")).of(weights) == before
    state = weights.stat()
    weights.write_text("4321")
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))  # and the size is the same
    assert Fingerprints(Path("memory")).of(weights) != before


def test_a_file_that_has_just_changed_is_not_remembered(model: Path) -> None:
    fingerprints = Fingerprints(Path("memory"))
    fingerprints.of(model)
    fingerprints.save()
    assert '"files": {}' in Path("memory").read_text()


def test_what_a_step_depends_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    made = root / "first" / "latest" / "model"
    made.mkdir(parents=True)
    (tmp_path / "settings.yaml").write_text("a: 1")
    (root / "cache").mkdir()
    steps = [
        Step("first", ("tiny", "--folder", str(root / "first"))),
        Step("second", ("fit", f"--config={tmp_path}/settings.yaml", "--runs", str(root))),
        Step("third", ("evaluate", f"--model=a={made},b=org/name", f"--out={root}/third/out")),
    ]
    reads = [{}, {"data.path": str(model)}, {"model": f"a={made},b=org/name"}]
    before = digests(steps, reads, root)
    assert digests(steps, reads, root) == before

    def changed() -> list[bool]:
        now = digests(steps, reads, root)
        return [a != b for a, b in zip(before, now, strict=True)]

    (root / "cache" / "output").write_text("its own")
    (root / "first" / "log.txt").write_text("its own")
    (root / "third").mkdir()
    (root / "third" / "out").write_text("its own")
    assert changed() == [False, False, False]
    (tmp_path / "settings.yaml").write_text("a: 2")
    assert changed() == [False, True, False]
    (tmp_path / "settings.yaml").write_text("a: 1")
    (model / "config.json").write_text("[]")
    assert changed() == [False, True, False]
    (model / "config.json").write_text("{}")
    (made / "weights").write_text("made by an earlier step")
    assert changed() == [False, False, True]
    (made / "weights").unlink()
    assert digests([replace(step, launcher=("srun",)) for step in steps], reads, root) == before
    monkeypatch.setattr(wdl, "__version__", "next")
    assert changed() == [True, True, True]


def test_a_pipeline_can_move(tmp_path: Path) -> None:
    found = []
    for place in (tmp_path / "a", tmp_path / "b" / "c"):
        (place / "root").mkdir(parents=True)
        (place / "settings.yaml").write_text("a: 1")
        step = Step("x", ("fit", "--config", f"{place}/settings.yaml", "--runs", f"{place}/root"))
        found += digests([step], [{}], place / "root")
    assert found[0] == found[1]


def test_what_nobody_writes_is_missed_at_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    steps = [Step("first", ("tiny",)), Step("second", ("fit",))]
    later = {"model.strong": str(root / "first" / "model"), "model.weak": "Qwen/Qwen3-4B"}
    digests(steps, [{}, later], root)
    with pytest.raises(UserError) as error:
        early = {"data.path": "/none", **later, "data.strong": later["model.strong"]}
        digests(steps, [early, {"data.path": str(root / "x")}], root)
    assert {fault.partition(", and")[0] for fault in error.value.faults} == {
        "stage first: data.path: there is no /none",
        f"stage first: model.strong: there is no {root}/first/model",
        f"stage second: data.path: there is no {root}/x",
    }
    assert len(error.value.faults) == 3

"""The shape of the project: imports that go one way, a wheel with one top-level name."""

import ast
import graphlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from conftest import REPOSITORY

MODULES = {
    **{
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts): file
        for file in (REPOSITORY / "wdl").rglob("*.py")
        if "callbacks" not in file.relative_to(REPOSITORY).parts
    },
    **{f"wdl.callbacks.{file.stem}": file for file in (REPOSITORY / "callbacks").glob("*.py")},
}
# each room may import from its own layer, without a circle, and from those above it in this list
LAYERS = (
    {"wdl", "wdl.errors", "wdl.constants"},
    {"wdl.config", "wdl.system"},
    {"wdl.losses", "wdl.remote"},
    {"wdl.branches"},
    {"wdl.data", "wdl.metrics", "wdl.tiny"},
    {"wdl.training", "wdl.generation", "wdl.grading", "wdl.questions"},
    {"wdl.evaluation", "wdl.rounds", "wdl.pipeline"},
    {"wdl.callbacks"},
    {"wdl.fit"},
    {"wdl.planning"},
    {"wdl.cli", "wdl.__main__"},
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
# what loads slowly, and the modules that must do without it when they are imported
HEAVY = {"torch", "lightning", "transformers"}
LIGHT = ("wdl.cli", "wdl.pipeline")


def room(module: str) -> str:
    """The package that a module is in, or the module itself where it lies in wdl/."""
    name = ".".join(module.removesuffix(".__init__").split(".")[:2])
    return "wdl" if name == "wdl.__init__" else name


def imports(file: Path, top_level_only: bool = False) -> set[str]:
    """Names that a module imports, anywhere or when it is imported itself."""
    tree = ast.parse(file.read_text())
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def arrows(place: Callable[[str], str], modules: Iterable[str] = MODULES) -> dict[str, set[str]]:
    """Which places import from which others; ``place`` maps a module to its place."""
    found: dict[str, set[str]] = {place(module): set() for module in modules}
    for module in modules:
        for name in imports(MODULES[module]):
            if name in MODULES and place(name) != place(module):
                found[place(module)].add(place(name))
    return found


def test_every_room_has_a_layer() -> None:
    assert {room(module) for module in MODULES} == set(LAYER)


def test_no_arrow_goes_upwards() -> None:
    upward = [
        f"{source} -> {target}"
        for source, targets in arrows(room).items()
        for target in targets
        if LAYER[target] > LAYER[source]
    ]
    assert not upward


@pytest.mark.parametrize("place", [room, str], ids=["rooms", "modules"])
def test_there_is_no_circle(place: Callable[[str], str]) -> None:
    list(graphlib.TopologicalSorter(arrows(place)).static_order())


def test_a_circle_and_an_upward_arrow_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "low.py").write_text("def late():\n    from wdl.training import deepspeed\n")
    monkeypatch.setitem(MODULES, "wdl.losses.low", tmp_path / "low.py")
    with pytest.raises(AssertionError, match=r"wdl\.losses -> wdl\.training"):
        test_no_arrow_goes_upwards()
    with pytest.raises(graphlib.CycleError):
        test_there_is_no_circle(room)


def reached(module: str) -> set[str]:
    """Everything that importing ``module`` imports, through this project's own modules."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports(MODULES[waiting.pop()], top_level_only=True):
            if name not in seen:
                seen.add(name)
                if name in MODULES:
                    waiting.append(name)
    return seen


@pytest.mark.parametrize("module", sorted(m for m in MODULES if m.startswith(LIGHT)))
def test_what_must_start_quickly_imports_nothing_heavy(module: str) -> None:
    assert not {name.split(".")[0] for name in reached(module)} & HEAVY


def test_few_files_lie_outside_the_rooms() -> None:
    assert len(list((REPOSITORY / "wdl").glob("*.py"))) <= 6


def test_callbacks_are_refused_under_another_name() -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import callbacks"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert "import wdl.callbacks instead" in child.stderr


def test_every_package_is_listed() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    found = {
        ".".join(file.parent.relative_to(REPOSITORY).parts)
        for file in (REPOSITORY / "wdl").rglob("__init__.py")
    }
    known = found | {"wdl.callbacks", "wdl.configs"}
    assert set(project["tool"]["setuptools"]["packages"]) == known


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked; built from a copy, since a build reuses what an older one left."""
    source, made, installed = (tmp_path_factory.mktemp(name) for name in ("source", "made", "site"))
    for name in ("wdl", "callbacks", "configs"):
        shutil.copytree(REPOSITORY / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", made, source], check=True, capture_output=True)
    zipfile.ZipFile(next(made.glob("*.whl"))).extractall(installed)
    return installed


def test_a_wheel_has_one_top_level_name(wheel: Path) -> None:
    assert {file.name for file in wheel.iterdir() if file.suffix != ".dist-info"} == {"wdl"}


def test_a_wheel_carries_the_configurations(wheel: Path) -> None:
    shipped, packaged = (
        {file.relative_to(folder) for file in folder.rglob("*") if file.is_file()}
        for folder in (REPOSITORY / "configs", wheel / "wdl" / "configs")
    )
    assert packaged == shipped


def test_a_wheel_carries_the_page_of_results(wheel: Path) -> None:
    page = Path("wdl/evaluation/page.html")
    assert (wheel / page).read_bytes() == (REPOSITORY / page).read_bytes()


def test_a_wheel_alone_runs_the_main_job(wheel: Path, tmp_path: Path) -> None:
    flags = ["--trainer.max_steps", "1", "--evaluation.benchmark", "null"]
    flags += ["--evaluation.sft_control", "false", "--data.selection.weights", "uniform"]
    command = [sys.executable, "-m", "wdl", "fit", "--config", "joint.yaml", *flags]
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    said = f"wdl: --config joint.yaml: {wheel}/wdl/configs/joint.yaml, which comes with wdl"
    assert said in done.stderr.splitlines()
    assert (tmp_path / "runs/joint/latest/strong/model.safetensors").is_file()


def test_every_module_says_what_it_is_for() -> None:
    files = [*MODULES.values(), *(REPOSITORY / "tests").rglob("*.py")]
    silent = [file for file in files if not ast.get_docstring(ast.parse(file.read_text()))]
    assert not silent

"""The shape of the project: imports that go one way, a wheel with one top-level name."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

MODULES = {
    **{
        ".".join(file.relative_to(REPOSITORY).with_suffix("").parts): file
        for file in (REPOSITORY / "wdl").rglob("*.py")
    },
    **{f"wdl.callbacks.{file.stem}": file for file in (REPOSITORY / "callbacks").glob("*.py")},
}
# what a module of a room must never reach
FORBIDDEN = {
    "wdl.data": ["wdl.models.module", "wdl.evaluation", "wdl.callbacks", "wdl.lightning_cli"],
    "wdl.models": ["wdl.data.module", "wdl.evaluation", "wdl.callbacks", "wdl.lightning_cli"],
    "wdl.metrics": ["wdl.data.module", "wdl.models.module", "wdl.evaluation", "wdl.callbacks"],
    "wdl.evaluation": ["wdl.data.module", "wdl.models.module", "wdl.callbacks"],
    "wdl.callbacks": ["wdl.lightning_cli", "wdl.cli"],
    "wdl.pipeline": ["torch", "lightning", "transformers"],
    "wdl.cli": ["torch", "lightning", "transformers"],
}


def imports(file: Path, top_level_only: bool = True) -> set[str]:
    """Names that a module imports when it is imported itself."""
    tree = ast.parse(file.read_text())
    names: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def reached(module: str) -> set[str]:
    """Everything that importing ``module`` imports, through this project's own modules."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for name in imports(MODULES[waiting.pop()]):
            if name not in seen:
                seen.add(name)
                if name in MODULES:
                    waiting.append(name)
    return seen


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module: str) -> None:
    for room, forbidden in FORBIDDEN.items():
        if module == room or module.startswith(f"{room}."):
            wrong = [
                name
                for name in reached(module)
                if any(name == f or name.startswith(f"{f}.") for f in forbidden)
            ]
            assert not wrong, f"{module} reaches {wrong}"


def test_only_the_command_line_imports_callbacks() -> None:
    importers = {
        module
        for module, file in MODULES.items()
        if any(name.startswith("wdl.callbacks") for name in imports(file, top_level_only=False))
    }
    assert {m for m in importers if not m.startswith("wdl.callbacks")} == {"wdl.lightning_cli"}


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
    assert set(project["tool"]["setuptools"]["packages"]) == found | {"wdl.callbacks"}


def test_a_wheel_has_one_top_level_name(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, REPOSITORY], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"wdl"}


def test_every_module_says_what_it_is_for() -> None:
    files = [*MODULES.values(), *(REPOSITORY / "tests").rglob("*.py")]
    silent = [file for file in files if not ast.get_docstring(ast.parse(file.read_text()))]
    assert not silent

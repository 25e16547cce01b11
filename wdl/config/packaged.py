"""The configurations that come with wdl, for who has none at hand: ``--config joint.yaml``."""

import difflib
from pathlib import Path

import wdl

_PACKAGE = Path(wdl.__file__).parent
# in a checkout they lie beside the package
CONFIGS = next(
    folder / "configs" for folder in (_PACKAGE, _PACKAGE.parent) if (folder / "configs").is_dir()
)


def find_config(file: Path) -> Path:
    """``file`` itself, or the packaged one of that name where it is not there."""
    packaged = CONFIGS / _name(file)
    return packaged if not file.exists() and packaged.is_file() else file


def like(file: Path) -> str:
    """Names of the packaged configurations, above all of those that may be meant."""
    names = sorted(str(found.relative_to(CONFIGS)) for found in CONFIGS.rglob("*.yaml"))
    return ", ".join(difflib.get_close_matches(str(_name(file)), names) or names)


def _name(file: Path) -> Path:
    """As in the documentation, with or without the folder that they have in a checkout."""
    return file.relative_to("configs") if file.is_relative_to("configs") else file

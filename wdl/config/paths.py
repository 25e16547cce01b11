"""Types of the paths in a configuration.

A relative path in a YAML file is meant from that file's folder, one on the command line from the
current folder. jsonargparse reads a YAML from within its folder, so making a path absolute as it
is parsed does both, and the saved configuration works from anywhere.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonargparse.typing import register_type

DATA_SUFFIXES = (
    *(".json", ".json.gz", ".json.zst"),
    *(".jsonl", ".jsonl.gz", ".jsonl.zst"),
    ".parquet",
)

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_ADDRESS = re.compile(r"https?://\S+$")
_HUB_DATA = re.compile(_HUB_NAME.pattern + r"(:\w[\w.-]*)?")


class InputPath(str):
    """A file or folder to read."""


class InputPaths(str):
    """Files to read, separated by commas, or as a JSON list."""

    @property
    def paths(self) -> list[Path]:
        """Each of them."""
        return [Path(part) for part in self.split(",") if part]


class DataSource(str):
    """A data file, a folder of them, a set that one lists (``FOLDER:NAME``), or a hub's data set.

    The last is ``organisation/name[:part]``.
    """


class ModelSource(str):
    """A Hugging Face model folder, or a name on the model hub (``organisation/name``)."""


def _input_path(value: str) -> InputPath:
    return InputPath(os.path.abspath(os.path.expanduser(value)))


def _input_paths(value: str) -> InputPaths:
    listed = json.loads(value) if value.startswith("[") else value.split(",")
    return InputPaths(",".join(_input_path(part) for part in map(str.strip, listed) if part))


def is_hub_name(source: str) -> bool:
    """Whether ``source`` names a model of the hub: spelt like one, and nothing there."""
    return _HUB_NAME.fullmatch(source) is not None and not os.path.exists(source)


def is_hub_data(path: str) -> bool:
    """Whether ``path`` names a data set of the hub: neither there nor spelt like a data file.

    ``FOLDER:NAME``, a set that a folder lists, is spelt like one but there.
    """
    named = _HUB_DATA.fullmatch(path) and not path.endswith(DATA_SUFFIXES)
    return bool(named) and not any(map(os.path.exists, (path, path.partition(":")[0])))


def lasting(source: ModelSource) -> ModelSource:
    """The source itself: a link such as runs/NAME/latest/strong may point elsewhere tomorrow."""
    return ModelSource(os.path.realpath(source)) if os.path.exists(source) else source


def _data_source(value: str) -> DataSource:
    return DataSource(value if is_hub_data(value) else _input_path(value))


def _model_source(value: str) -> ModelSource:
    if not value:
        raise ValueError("there is none; give one, or a file such as --config configs/joint.yaml")
    return ModelSource(value if is_hub_name(value) else _input_path(value))


register_type(InputPath, serializer=str, deserializer=_input_path)
register_type(InputPaths, serializer=str, deserializer=_input_paths)
register_type(DataSource, serializer=str, deserializer=_data_source)
register_type(ModelSource, serializer=str, deserializer=_model_source)


def paths_in(config: Any) -> Iterator[tuple[str, str]]:
    """Key and value of every path in a configuration: their types derive from str."""
    return ((name, text) for name, text in _texts_in(config) if type(text) is not str)


def addresses_in(config: Any) -> Iterator[tuple[str, str]]:
    """Key and value of every address of the web in a configuration."""
    return ((name, text) for name, text in _texts_in(config) if _ADDRESS.match(text))


def _texts_in(config: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Key and value of every text in nested dictionaries and lists; ``name`` is the key of all."""
    if isinstance(config, dict):
        for key, inner in config.items():
            yield from _texts_in(inner, f"{name}.{key}" if name else key)
    elif isinstance(config, list):
        for position, inner in enumerate(config):
            yield from _texts_in(inner, f"{name}.{position}")
    elif isinstance(config, str):
        yield name, config

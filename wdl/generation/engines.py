"""The generation engines by name, and those of users by their YAML files."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from wdl.config.definitions import read_class
from wdl.generation.engine import Engine, EngineName
from wdl.generation.transformers_engine import TransformersEngine
from wdl.generation.vllm_engine import VllmEngine
from wdl.generation.vllm_options import VllmOptions


def find_engine(name: EngineName, vllm: VllmOptions) -> Callable[[str], Engine]:
    """What makes the engine for a model.

    Raises:
        UserError: The file defines no engine.
    """
    if name == "vllm":
        return partial(VllmEngine, options=vllm)
    if name == "transformers":
        return TransformersEngine
    return read_class(Path(name), Engine)  # type: ignore[type-abstract]

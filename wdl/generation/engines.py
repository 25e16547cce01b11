"""The generation engines by name."""

from collections.abc import Callable
from typing import Any, Literal

from wdl.generation.engine import Engine
from wdl.generation.transformers_engine import TransformersEngine
from wdl.generation.vllm_engine import VllmEngine, describe_vllm
from wdl.generation.vllm_options import VllmOptions

EngineName = Literal["transformers", "vllm"]


def describe_engine(name: EngineName, vllm: VllmOptions) -> dict[str, Any]:
    """Name, versions and all else that decides about rounding, for the record."""
    return describe_vllm(vllm) if name == "vllm" else TransformersEngine.describe()


def engine_opener(name: EngineName, vllm: VllmOptions) -> Callable[[str, int], Engine]:
    """What starts the engine for a model and a length of context."""
    if name == "vllm":
        return lambda source, context: VllmEngine(source, context, vllm)
    return lambda source, context: TransformersEngine(source)

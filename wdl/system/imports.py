"""Lightning without what it imports for the sake of others, which is more than half of its time.

torchmetrics, which comes with it, imports transformers and matplotlib for BERTScore and for plots;
and torch's compiler is imported for a class that compiled models are recognised by, and for a
decorator. So neither a help text nor a complaint about a flag has to wait for them. Who needs them
imports them all the same, later: ``from torchmetrics.text.bert import BERTScore``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_EXTRAS = ("transformers", "matplotlib")


class _Compiled(type):
    """Of a class that stands for the compiler's, which has no objects before it is imported."""

    def __instancecheck__(cls, instance: Any) -> bool:
        compiler = sys.modules.get(_COMPILER)
        return compiler is not None and isinstance(instance, compiler.OptimizedModule)


class _LaterPath:
    """Where the compiler's modules are looked for; that imports it."""

    def __iter__(self) -> Iterator[str]:
        return iter(_compiler().__path__)


class _LaterCompiler(ModuleType):
    """The two things that are used of the compiler without compiling; it is imported for others."""

    __path__: Any = _LaterPath()
    OptimizedModule = _Compiled("OptimizedModule", (), {})

    @staticmethod
    def disable(function: Any = None, recursive: bool = True, **_: Any) -> Any:
        """The same decorator as torch uses it itself: imports the compiler at the first call."""
        import torch

        return torch._disable_dynamo(function, recursive)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what inspect asks of all modules
            raise AttributeError(name)
        return getattr(_compiler(), name)


def _compiler() -> ModuleType:
    if isinstance(sys.modules.get(_COMPILER), _LaterCompiler):
        del sys.modules[_COMPILER]
    return import_module(_COMPILER)


@contextmanager
def without_extras() -> Iterator[None]:
    """What is imported meanwhile, if for the first time, does without them where it can."""
    import torch  # noqa: F401 (while it is not complete itself, it must find its own compiler)
    from lightning_utilities.core.imports import RequirementCache

    is_there = RequirementCache.__bool__

    def is_wanted(requirement: RequirementCache) -> bool:
        return not str(requirement.requirement).startswith(_EXTRAS) and is_there(requirement)

    RequirementCache.__bool__ = is_wanted  # type: ignore[method-assign,assignment]
    sys.modules.setdefault(_COMPILER, _LaterCompiler(_COMPILER))
    try:
        yield
    finally:
        RequirementCache.__bool__ = is_there  # type: ignore[method-assign]
        if isinstance(sys.modules.get(_COMPILER), _LaterCompiler):
            del sys.modules[_COMPILER]

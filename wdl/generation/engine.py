"""What every generation engine is given and gives back.

An engine of your own is a class derived from :class:`Engine`, in a module that Python finds, such
as a file in the current folder, and a YAML file for ``--engine`` that names it:

    class_path: mine.Endpoint
    init_args:
      url: http://localhost:8000/v1
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from jsonargparse.typing import register_type

Key = tuple[str, int]


class EngineName(str):
    """``transformers``, ``vllm``, or the YAML file of another engine."""


def _engine_name(value: str) -> str:
    """A path that is absolute, but a name as it is, which must not be taken for a file."""
    if value.endswith((".yaml", ".yml")):
        return EngineName(os.path.abspath(os.path.expanduser(value)))
    if value not in ("transformers", "vllm"):
        raise ValueError(f"{value!r}; choose from transformers, vllm, or give a YAML file")
    return value


register_type(EngineName, serializer=str, deserializer=_engine_name)
TRANSFORMERS = cast(EngineName, "transformers")


@dataclass(frozen=True)
class Request:
    """One answer to generate: the ``sample``-th to problem ``id``, asked by ``messages``.

    ``images`` are the absolute paths of the pictures, in the order of the ``<image>`` marks in the
    texts of ``messages``. ``template`` holds arguments of the chat template.
    """

    id: str
    sample: int
    messages: list[dict[str, Any]]
    images: tuple[str, ...] = ()
    template: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What tells one answer from the others of its benchmark."""
        return self.id, self.sample


@dataclass(frozen=True)
class Generation:
    """One generated answer.

    Args:
        id: The problem.
        sample: Which of the answers to it.
        completion: The answer without the token that ended it.
        finish_reason: ``stop`` if the model ended it, ``length`` if the protocol did.
        new_tokens: How many tokens were generated, with the one that ended it.
    """

    id: str
    sample: int
    completion: str
    finish_reason: Literal["stop", "length"]
    new_tokens: int


@dataclass(frozen=True)
class Sampling:
    """How the engine chooses tokens, and when it cuts an answer off."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int

    def seed_of(self, request: Request) -> int:
        """64 bits for one answer, which do not depend on the others."""
        name = f"{self.seed}/{request.id}/{request.sample}"
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


class Engine(ABC):
    """A model that answers. Making one is cheap: what is large is loaded when it generates.

    Args:
        source: The model as ``--model`` names it. Further arguments are the engine's own.

    Raises:
        UserError: It can never answer: there is no such model, say, or the software is missing.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    @abstractmethod
    def check(self, requests: Sequence[Request], sampling: Sampling) -> dict[str, Any]:
        """Refuse what cannot be answered, without loading weights.

        Returns:
            What the model will read and when it will stop, for the record; ``thinking`` is True
            if answers begin within a thought that the prompt has opened.

        Raises:
            UserError: The model takes no messages, or has too little context.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Model and engine, with all that decides about rounding, for the record.

        Raises:
            UserError: The model's weights are damaged.
        """

    @abstractmethod
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Collection[Key] = ()
    ) -> Iterator[list[Generation]]:
        """Answer all ``requests`` but those whose key is ``done``, as they get ready.

        What an answer is does not depend on ``done``.

        Raises:
            ChildFailure: The engine crashed or hung.
        """

    def say(self, request: Request, sampling: Sampling, write: Callable[[str], None]) -> Generation:
        """Answer one request; ``write`` gets the text as it comes, or whole.

        Raises:
            ChildFailure: The engine crashed or hung.
        """
        found = [one for batch in self.generate([request], sampling) for one in batch]
        write(found[0].completion)
        return found[0]

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Give back what the engine holds; it can generate no more."""

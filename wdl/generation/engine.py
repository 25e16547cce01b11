"""What every generation engine is given and gives back."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from wdl.generation.requests import Request

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """One generated answer.

    Args:
        id: The problem.
        sample: Which of the answers to it.
        text: The answer without the token that ended it.
        finish_reason: ``stop`` if the model ended it, ``length`` if the protocol did.
        tokens: The generated tokens, with the one that ended it.
        first_logprob: Log-probability of the first token, in nats; engines agree on it.
    """

    id: str
    sample: int
    text: str
    finish_reason: FinishReason
    tokens: list[int]
    first_logprob: float

    @property
    def key(self) -> tuple[str, int]:
        """The key of the request that it answers."""
        return self.id, self.sample


@dataclass(frozen=True)
class Sampling:
    """How the engine chooses tokens, and when it ends an answer."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop_tokens: tuple[int, ...]


class Engine(Protocol):
    """A model that is ready to generate."""

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Collection[tuple[str, int]] = (),
    ) -> Iterator[list[Generation]]:
        """Answer all ``requests`` but those whose key is ``done``, as they get ready.

        What an answer is does not depend on ``done``.
        """
        ...

    def close(self) -> None:
        """Give back what the engine holds; it can generate no more."""
        ...

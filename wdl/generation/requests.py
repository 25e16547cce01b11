"""From a problem to the tokens that a model is asked with."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from wdl.data.encoding import encode_prompt
from wdl.errors import UserError
from wdl.generation.protocols import Protocol
from wdl.questions.problems import Problem


@dataclass(frozen=True)
class Request:
    """One answer to generate: the ``sample``-th to problem ``id``."""

    id: str
    sample: int
    prompt: list[int]

    @property
    def key(self) -> tuple[str, int]:
        """What tells one answer from the others of its benchmark."""
        return self.id, self.sample


def render(
    tokenizer: PreTrainedTokenizerBase, problems: Sequence[Problem], protocol: Protocol
) -> list[Request]:
    """The requests of a benchmark, in the order of its problems."""
    system = protocol.system_prompt
    opening = [{"role": "system", "content": system}] if system is not None else []
    requests: list[Request] = []
    for problem in problems:
        prompt = encode_prompt(tokenizer, [*opening, {"role": "user", "content": problem.question}])
        requests += [Request(problem.id, n, prompt) for n in range(protocol.samples)]
    return requests


def check_context(requests: Sequence[Request], new_tokens: int, context: int, place: str) -> None:
    """Refuse answers that the model has no room for.

    Raises:
        UserError: The longest prompt and ``new_tokens`` exceed ``context``.
    """
    longest = max(len(request.prompt) for request in requests)
    if longest + new_tokens > context:
        raise UserError(
            f"{place}: a prompt of {longest} tokens and {new_tokens} new ones need "
            f"{longest + new_tokens}, the model's context is {context}; choose a protocol with at "
            f"most {max(context - longest, 0)} new tokens"
        )

"""Generation by servers that speak OpenAI's chat completions: vLLM, SGLang, llama.cpp, or paid.

The engine is a YAML file for ``--engine``, with the fields of :class:`Endpoint`:

    class_path: wdl.generation.openai_engine.OpenAIEngine
    init_args:
      endpoint:
        url: http://localhost:8000/v1,http://localhost:8001/v1
        model: Qwen/Qwen3-8B
        key_variable: MY_KEY   # the name of an environment variable, not the key
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from wdl.errors import UserError
from wdl.generation.engine import Engine, Generation, Key, Request, Sampling
from wdl.generation.pictures import content_parts, digests, of_questions, opened
from wdl.remote.client import Client
from wdl.remote.endpoint import Endpoint
from wdl.remote.replies import Reply
from wdl.system.digests import value_digest

LARGEST_SEED = 2**63 - 1
# What vLLM, SGLang and llama.cpp call the arguments of a chat template; others refuse or ignore it.
TEMPLATE = "chat_template_kwargs"


class OpenAIEngine(Engine):
    """A model behind one or more servers, which apply its chat template themselves.

    Which weights a server has is not known: the record names the model as ``endpoint`` does, and
    answers of other weights under the same name would be taken for its own.

    Args:
        source: The model as ``--model`` names it.
        endpoint: The servers.
        thinking: Whether their chat template opens a thought that answers then begin in.

    Raises:
        UserError: An option is wrong, or the key is not there.
    """

    def __init__(self, source: str, endpoint: Endpoint, thinking: bool = False) -> None:
        super().__init__(source)
        self.endpoint = endpoint
        self.thinking = thinking
        endpoint.check()

    def check(self, requests: Sequence[Request], sampling: Sampling) -> dict[str, Any]:
        """Whether answers begin in a thought, and digests of pictures; the rest is the server's."""
        if TEMPLATE in self.endpoint.extra and any(request.template for request in requests):
            raise UserError(f"endpoint.extra holds {TEMPLATE}, and the protocol too; drop one")
        thinking = {"thinking": True} if self.thinking else {}
        of_questions(requests, lambda one: len(opened(one)))  # not kept: pictures are large
        asked = any(request.images for request in requests)
        return thinking | ({"images_sha256": value_digest(digests(requests))} if asked else {})

    def describe(self) -> dict[str, Any]:
        """The model's name and what else is in each request."""
        name = {"name": "openai", "model": self.endpoint.model, "extra": self.endpoint.extra}
        return {"engine": name}

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Collection[Key] = ()
    ) -> Iterator[list[Generation]]:
        """Answers as they come; the budget is that of this run.

        Raises:
            ChildFailure: The servers do not answer.
            UserError: They refuse the key or some requests, or the budget is spent.
        """
        missing = {request.key: request for request in requests if request.key not in done}
        asked = ((key, self._body(request, sampling)) for key, request in missing.items())
        refused: list[Reply] = []
        for replies in Client(self.endpoint, whole=False).ask(asked):
            refused += [reply for reply in replies if reply.refused]
            yield [
                _generation(missing[reply.key], reply)  # type: ignore[index]
                for reply in replies
                if not reply.refused
            ]
        if refused:
            raise UserError(
                f"{self.endpoint.url}: {len(refused)} of {len(missing)} requests were refused, the "
                f"last, of {missing[refused[-1].key].id}: {refused[-1].refused}"  # type: ignore[index]
            )

    def _body(self, request: Request, sampling: Sampling) -> dict[str, Any]:
        template = {TEMPLATE: request.template} if request.template else {}
        return self.endpoint.body(
            content_parts(request),
            **template,
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed_of(request) & LARGEST_SEED,
        )


def _generation(request: Request, reply: Reply) -> Generation:
    """An answer with its reasoning, as chat templates write it."""
    text = f"<think>{reply.reasoning}" if reply.reasoning else ""
    text += f"</think>{reply.text}" if reply.reasoning and reply.text else reply.text
    return Generation(
        id=request.id,
        sample=request.sample,
        completion=text,
        # whatever else a server may give as its reason, the model has not ended its answer
        finish_reason="stop" if reply.finish_reason == "stop" else "length",
        new_tokens=reply.usage.completion,
    )

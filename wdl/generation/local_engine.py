"""What engines share that turn messages into token ids themselves.

Prompts are rendered as in training. A model is a folder, or a name on the hub.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

from transformers import GenerationConfig, PreTrainedTokenizerBase

from wdl.branches.sources import (
    check_source,
    load_config,
    load_tokenizer,
    model_digest,
    reads_images,
)
from wdl.branches.template import OPEN_THOUGHT, QUESTION, Template, probe, render
from wdl.branches.vision import Vision, with_parts
from wdl.data.encoding import encode_prompt
from wdl.errors import UserError
from wdl.generation.engine import Engine, Generation, Request, Sampling
from wdl.generation.pictures import digests, of_questions, opened
from wdl.system.digests import value_digest


class Prompt(NamedTuple):
    """A request and the token ids that it is asked with, all those of its pictures among them."""

    request: Request
    tokens: list[int]


class LocalEngine(Engine):
    """A model whose tokenizer and weights are at hand.

    Args:
        source: Model folder or hub name.

    Raises:
        UserError: There is no such model, or it has no tokenizer.
    """

    def __init__(self, source: str) -> None:
        super().__init__(source)
        check_source(source, "--model", weights=False)
        self.config = load_config(source)
        self.context = 0  # longest prompt and answer together that were asked for, in tokens
        self.most_images = 0  # of one prompt that was asked for
        self._seen: dict[tuple[str, tuple[str, ...]], list[int]] = {}

    @abstractmethod
    def software(self) -> dict[str, Any]:
        """Name, versions and all else that decides about rounding on this machine."""

    def describe(self) -> dict[str, Any]:
        """Digest of the model, and the engine."""
        check_source(self.source, "--model")
        return {"model_sha256": model_digest(self.source), "engine": self.software()}

    @cached_property
    def template(self) -> Template:
        """What a look at the chat template shows."""
        return probe(self.tokenizer, self.config.get_text_config().vocab_size)

    def check(self, requests: Sequence[Request], sampling: Sampling) -> dict[str, Any]:
        """Digest of the prompts, whether they open a thought, and what ends an answer."""
        stop = list(self.stop_tokens)  # first, since it refuses a tokenizer without a template
        read: list[Any] = [prompt.tokens for prompt in self.prompts(requests, sampling)]
        if any(request.images for request in requests):
            read = [read, digests(requests), self.vision.key()]
        opening = render(self.tokenizer, [QUESTION], arguments=requests[0].template)
        thinking = {"thinking": True} if OPEN_THOUGHT.search(opening) else {}
        return {"prompt_sha256": value_digest(read), "stop_tokens": stop, **thinking}

    def prompts(self, requests: Sequence[Request], sampling: Sampling) -> list[Prompt]:
        """The token ids of ``requests``.

        Raises:
            UserError: The model has not enough context, or cannot take the pictures.
        """
        asked = next((request.id for request in requests if request.images), None)
        if asked is not None and not reads_images(self.config):
            raise UserError(
                f"{asked}: it has pictures and {self.source} reads only text; give a "
                "vision-language model"
            )
        encode = self._encode if asked is None else self._encode_with_images
        tokens = of_questions(requests, encode)
        prompts = [Prompt(*pair) for pair in zip(requests, tokens, strict=True)]
        longest = max(len(prompt.tokens) for prompt in prompts)
        needed = longest + sampling.max_new_tokens
        context = self.config.get_text_config().max_position_embeddings
        if needed > context:
            room = context - longest
            raise UserError(
                f"a prompt of {longest} tokens and {sampling.max_new_tokens} new ones need "
                f"{needed}, the model's context is {context}; "
                + (f"ask for at most {room} new tokens" if room > 0 else "leave that question out")
            )
        self.context = max(self.context, needed)
        self.most_images = max(self.most_images, *(len(one.images) for one in requests))
        return prompts

    def _encode(self, request: Request) -> list[int]:
        return encode_prompt(self.tokenizer, request.messages, request.template)

    def _encode_with_images(self, request: Request) -> list[int]:
        """Counted by the processor, which has to see the pictures; but once is enough."""
        messages = with_parts(request.messages) if request.images else request.messages
        asked = render(self.tokenizer, messages, arguments=request.template), request.images
        if asked not in self._seen:
            self._seen[asked] = self.vision.tokens(asked[0], opened(request))
        return self._seen[asked]

    @cached_property
    def vision(self) -> Vision:
        """What makes tokens and pixels of pictures."""
        return Vision(self.source)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """What renders and decodes."""
        return load_tokenizer(self.source)

    @cached_property
    def stop_tokens(self) -> tuple[int, ...]:
        """Every token that ends an answer: those of the generation config, and the end of a turn.

        Base models are configured to end at the end of a text alone, which fine-tuned ones never
        write.
        """
        try:
            configured = GenerationConfig.from_pretrained(self.source).eos_token_id
        except OSError:  # the folder has none
            configured = self.tokenizer.eos_token_id
        several = configured if isinstance(configured, list) else [configured]
        return tuple(sorted({self.template.end_token, *(t for t in several if t is not None)}))

    def generation(self, request: Request, tokens: list[int], stopped: bool) -> Generation:
        """The answer that consists of ``tokens``, of which the last may have ended it."""
        answer = tokens[:-1] if stopped and tokens[-1] in self.stop_tokens else tokens
        return Generation(
            id=request.id,
            sample=request.sample,
            completion=str(self.tokenizer.decode(answer, skip_special_tokens=True)),
            finish_reason="stop" if stopped else "length",
            new_tokens=len(tokens),
        )

"""What engines share that turn messages into token ids themselves.

Prompts are rendered as in training. A model is a folder, or a name on the hub.
"""

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from transformers import GenerationConfig, PreTrainedTokenizerBase

from wdl.branches.loading import check_source, load_config, load_tokenizer, model_digest
from wdl.branches.template import Template, probe
from wdl.data.encoding import encode_prompt
from wdl.errors import UserError
from wdl.generation.engine import Engine, Generation, Request, Sampling
from wdl.system.digests import value_digest


class Prompt(NamedTuple):
    """A request and the token ids that it is asked with."""

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
        prompts = [prompt.tokens for prompt in self.prompts(requests, sampling)]
        thinking = {"thinking": True} if self.template.opened else {}
        return {"prompt_sha256": value_digest(prompts), "stop_tokens": stop, **thinking}

    def prompts(self, requests: Sequence[Request], sampling: Sampling) -> list[Prompt]:
        """The token ids of ``requests``.

        Raises:
            UserError: The model has not enough context.
        """
        prompts: list[Prompt] = []
        for messages, group in groupby(requests, lambda request: request.messages):
            tokens = encode_prompt(self.tokenizer, messages)
            prompts += [Prompt(request, tokens) for request in group]
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
        return prompts

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

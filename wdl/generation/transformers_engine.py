"""Generation with transformers alone: for tiny models, and machines without vLLM.

Requests are sorted by length, padded on the left and decoded in batches that shrink as answers
end; `generate` of transformers carries the ended ones along until the last has ended.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, DynamicCache, PreTrainedModel
from transformers import __version__ as transformers_version
from transformers.utils.logging import disable_progress_bar

from wdl.branches.sources import model_class, reads_images
from wdl.errors import UserError
from wdl.generation.engine import Generation, Key, Request, Sampling
from wdl.generation.local_engine import LocalEngine, Prompt
from wdl.generation.pictures import opened

MAX_ROWS = 128
# Positions that the cache of a batch may hold: 19 GB for Qwen3-4B in bfloat16.
MAX_POSITIONS = 131_072
# Ended answers leave a batch once they are this share of it; leaving copies the cache.
ENDED_SHARE = 0.125


class Reading(NamedTuple):
    """What a model reads at once, of R prompts.

    Attributes:
        tokens: [R, T] int64, padded on the left; later [R, 1].
        mask: [R, positions so far] int64, 0 on padding.
        positions: [R, T] or [axes, R, T] int64, then for the last token alone.
        pictures: What comes with the tokens, for their pictures.
    """

    tokens: Tensor
    mask: Tensor
    positions: Tensor
    pictures: dict[str, Tensor]

    def then(self, tokens: Tensor) -> "Reading":
        """The next, of one token [R, 1] behind each; it is text, and so is what it follows."""
        mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        return Reading(tokens, mask, self.positions[..., -1:] + 1, {})

    def keep(self, rows: Tensor) -> "Reading":
        """Some of the prompts."""
        return Reading(self.tokens[rows], self.mask[rows], self.positions[..., rows, :], {})


class TransformersEngine(LocalEngine):
    """A language model, on CUDA in bfloat16 or on the CPU in float32."""

    @cached_property
    def model(self) -> PreTrainedModel:
        """The weights."""
        device, dtype = _device()
        disable_progress_bar()  # of loading: there is one for the answers
        model = model_class(self.config).from_pretrained(self.source, dtype=dtype)
        return model.eval().to(device=device)

    def software(self) -> dict[str, str | int]:
        """Name, versions and what decides about rounding on this machine."""
        device, dtype = _device()
        return {
            "name": "transformers",
            "version": transformers_version,
            "torch": torch.__version__,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
            "max_rows": MAX_ROWS,
        }

    def check(self, requests: Sequence[Request], sampling: Sampling) -> dict[str, Any]:
        """As for every local model; it has to say where a picture's tokens stand."""
        pictures = any(request.images for request in requests) and reads_images(self.config)
        if pictures and not hasattr(AutoModel._model_mapping[type(self.config)], "get_rope_index"):
            raise UserError(
                f"{self.source}: pictures are read as Qwen-VL models do, not yet as "
                f"{self.config.model_type}; use --engine vllm"
            )
        return super().check(requests, sampling)

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, done: Collection[Key] = ()
    ) -> Iterator[list[Generation]]:
        """Answers to ``requests``, as they end.

        Batches are cut from all requests, done or not, so that an answer comes from the same
        batch, and thus with the same rounding, in a resumed run.
        """
        prompts = self.prompts(requests, sampling)
        for batch in plan_batches(prompts, sampling.max_new_tokens):
            missing = {prompt.request.key for prompt in batch} - set(done)
            if missing:
                for ended in self._decode(batch, sampling):
                    yield [one for one in ended if (one.id, one.sample) in missing]

    def say(self, request: Request, sampling: Sampling, write: Callable[[str], None]) -> Generation:
        """As for every engine, a token at a time, within what room the context has."""
        (prompt,) = self.prompts([request], replace(sampling, max_new_tokens=1))
        context = self.config.get_text_config().max_position_embeddings
        room = min(sampling.max_new_tokens, context - len(prompt.tokens))
        seen = ""

        def follow(written: Tensor) -> None:
            nonlocal seen
            text = self._cut(request, written[0].tolist()).completion
            if not text.endswith("\ufffd"):  # the first bytes of a character
                write(text[len(seen) :])
                seen = text

        ended = self._decode([prompt], replace(sampling, max_new_tokens=room), follow)
        ((found,),) = ended
        write(found.completion[len(seen) :])
        return found

    def close(self) -> None:
        """Let go of the model."""
        self.__dict__.pop("model", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _decode(
        self,
        batch: list[Prompt],
        sampling: Sampling,
        follow: Callable[[Tensor], None] = lambda written: None,
    ) -> Iterator[list[Generation]]:
        """The answers to one batch of R prompts, as they end.

        ``follow`` gets the tokens so far [R left, new tokens] after each.
        """
        device, _ = _device()
        requests = [prompt.request for prompt in batch]
        reading = self._begin(batch, device)
        written = reading.tokens[:, :0]  # [R, new tokens]
        ended = torch.zeros(len(batch), dtype=torch.bool, device=device)
        stop = torch.tensor(self.stop_tokens, device=device)
        # what is drawn depends on the batch that this request begins
        draw = torch.Generator(device).manual_seed(sampling.seed_of(requests[0]) >> 1)
        cache = DynamicCache(config=self.model.config)
        for left in reversed(range(sampling.max_new_tokens)):
            logits = self.model(
                input_ids=reading.tokens,
                attention_mask=reading.mask,
                position_ids=reading.positions,
                past_key_values=cache,
                logits_to_keep=1,
                **reading.pictures,
            ).logits[:, -1]
            tokens = choose_tokens(logits.float(), sampling, draw)[:, None]
            written = torch.cat([written, tokens], dim=1)
            follow(written)
            ended |= torch.isin(tokens[:, 0], stop)
            reading = reading.then(tokens)
            if left == 0 or ended.float().mean() >= ENDED_SHARE:
                leaving = ended if left else torch.ones_like(ended)
                yield [
                    self._cut(requests[row], written[row].tolist())
                    for row in leaving.nonzero()[:, 0].tolist()
                ]
                kept = (~leaving).nonzero()[:, 0]
                if not len(kept):
                    return
                requests = [requests[row] for row in kept.tolist()]
                reading, written, ended = reading.keep(kept), written[kept], ended[kept]
                cache.batch_select_indices(kept)

    def _begin(self, batch: list[Prompt], device: torch.device) -> Reading:
        """What the model reads first: the prompts, with the pictures that are in them."""
        prompts = [torch.tensor(prompt.tokens, device=device) for prompt in batch]
        tokens, mask = (
            pad_sequence(rows, batch_first=True, padding_side="left")
            for rows in (prompts, [torch.ones_like(tokens) for tokens in prompts])
        )
        images = [image for prompt in batch for image in opened(prompt.request)]
        if not images:
            return Reading(tokens, mask, (mask.cumsum(1) - 1).clamp(min=0), {})
        pictures = {k: v.to(device) for k, v in self.vision.inputs(tokens, images).items()}
        # height and width of a picture are axes of their own
        rope_index = self.model.base_model.get_rope_index
        positions, _ = rope_index(tokens, attention_mask=mask, **pictures)  # type: ignore[operator]
        return Reading(tokens, mask, positions, pictures)

    def _cut(self, request: Request, tokens: list[int]) -> Generation:
        """The answer up to the first token that ends it; what follows was written in vain."""
        for end, token in enumerate(tokens, start=1):
            if token in self.stop_tokens:
                return self.generation(request, tokens[:end], True)
        return self.generation(request, tokens, False)


def plan_batches(prompts: Sequence[Prompt], new_tokens: int) -> Iterator[list[Prompt]]:
    """Batches of similar length, the longest first, each within MAX_ROWS and MAX_POSITIONS."""
    queue = sorted(prompts, key=lambda prompt: -len(prompt.tokens))
    while queue:
        positions = len(queue[0].tokens) + new_tokens
        rows = max(1, min(MAX_ROWS, MAX_POSITIONS // positions))
        yield queue[:rows]
        queue = queue[rows:]


def choose_tokens(logits: Tensor, sampling: Sampling, draw: torch.Generator) -> Tensor:
    """The next tokens [R] int64 by their logits [R, V] float32.

    Temperature 0 takes the likeliest token; otherwise one is drawn from the smallest set of
    likeliest tokens whose probability reaches ``top_p``.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities, order = (logits / sampling.temperature).softmax(-1).sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    nucleus = probabilities.masked_fill(before >= sampling.top_p, 0)
    return order.gather(1, torch.multinomial(nucleus, 1, generator=draw))[:, 0]


def _device() -> tuple[torch.device, torch.dtype]:
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.bfloat16
    return torch.device("cpu"), torch.float32

"""Generation with transformers alone: for tiny models, and machines without vLLM.

Requests are sorted by length, padded on the left and decoded in batches that shrink as answers
end; `generate` of transformers carries the ended ones along until the last has ended.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers import __version__ as transformers_version
from transformers.utils.logging import disable_progress_bar

from wdl.generation.engine import FinishReason, Generation, Sampling
from wdl.generation.requests import Request

MAX_ROWS = 128
# Positions that the cache of a batch may hold: 19 GB for Qwen3-4B in bfloat16.
MAX_POSITIONS = 131_072
# Ended answers leave a batch once they are this share of it; leaving copies the cache.
ENDED_SHARE = 0.125


class TransformersEngine:
    """A causal language model, on CUDA in bfloat16 or on the CPU in float32.

    Args:
        source: Model folder or hub name.
    """

    def __init__(self, source: str) -> None:
        self.device, dtype = _device()
        disable_progress_bar()  # of loading: there is one for the answers
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        self.config = model.config
        self.model: torch.nn.Module = model.eval().to(device=self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(source)

    @staticmethod
    def describe() -> dict[str, str | int]:
        """What decides about rounding on this machine, for the record."""
        device, dtype = _device()
        return {
            "name": "transformers",
            "version": transformers_version,
            "torch": torch.__version__,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device.type,
            "max_rows": MAX_ROWS,
        }

    def generate(
        self,
        requests: Sequence[Request],
        sampling: Sampling,
        done: Collection[tuple[str, int]] = (),
    ) -> Iterator[list[Generation]]:
        """Answers to ``requests``, as they end.

        Batches are cut from all requests, done or not, so that an answer comes from the same
        batch, and thus with the same rounding, in a resumed run.
        """
        for batch in plan_batches(requests, sampling.max_new_tokens):
            missing = {request.key for request in batch} - set(done)
            if missing:
                for ended in self._decode(batch, sampling):
                    yield [generation for generation in ended if generation.key in missing]

    def close(self) -> None:
        """Let go of the model."""
        del self.model
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _decode(self, batch: list[Request], sampling: Sampling) -> Iterator[list[Generation]]:
        rows = _Rows(batch, self.device, sampling.stop_tokens)
        draw = _generator(batch[0], sampling.seed, self.device)
        cache = DynamicCache(config=self.config)
        for left in reversed(range(sampling.max_new_tokens)):
            logits = self.model(
                input_ids=rows.inputs,
                attention_mask=rows.mask,
                position_ids=rows.positions,
                past_key_values=cache,
                logits_to_keep=1,
            ).logits[:, -1]
            rows.append(choose_tokens(logits.float(), sampling, draw), logits)
            if left == 0 or rows.ended_share() >= ENDED_SHARE:
                kept, ended = rows.release(everything=left == 0)
                yield [self._generation(*answer) for answer in ended]
                if not len(kept):
                    return
                cache.batch_select_indices(kept)

    def _generation(
        self, request: Request, tokens: list[int], stopped: bool, first_logprob: float
    ) -> Generation:
        answer = tokens[: len(tokens) - stopped]
        text = str(self.tokenizer.decode(answer, skip_special_tokens=True))
        reason: FinishReason = "stop" if stopped else "length"
        return Generation(request.id, request.sample, text, reason, tokens, first_logprob)


class _Rows:
    """The answers that are being written in one batch, R of them."""

    def __init__(self, batch: list[Request], device: torch.device, stop: Sequence[int]) -> None:
        width = max(len(request.prompt) for request in batch)
        padding = [width - len(request.prompt) for request in batch]
        padded = [[0] * pad + r.prompt for pad, r in zip(padding, batch, strict=True)]
        mask = [[0] * pad + [1] * (width - pad) for pad in padding]
        self.requests = batch
        self.stop = torch.tensor(stop, device=device)
        self.inputs = torch.tensor(padded, device=device)  # [R, T] prompts, then [R, 1] tokens
        self.mask = torch.tensor(mask, device=device)  # [R, positions in the cache and inputs]
        self.positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        self.tokens = torch.empty((len(batch), 0), dtype=torch.int64, device=device)
        self.first_logprobs = torch.empty(len(batch), device=device)
        self.ended = torch.zeros(len(batch), dtype=torch.bool, device=device)

    def append(self, tokens: Tensor, logits: Tensor) -> None:
        """Take ``tokens`` [R], chosen from ``logits`` [R, V]; they are the next inputs."""
        if not self.tokens.shape[1]:
            logprobs = logits.float().log_softmax(-1)
            self.first_logprobs = logprobs.gather(1, tokens[:, None])[:, 0]
        self.tokens = torch.cat([self.tokens, tokens[:, None]], dim=1)
        self.ended |= torch.isin(tokens, self.stop)
        self.inputs = tokens[:, None]
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        self.positions = self.positions[:, -1:] + 1

    def ended_share(self) -> float:
        """Share of the rows whose answer has ended."""
        return self.ended.float().mean().item()

    def release(
        self, everything: bool
    ) -> tuple[Tensor, list[tuple[Request, list[int], bool, float]]]:
        """Let go of the rows that have ended, or of all.

        Returns:
            Indices of the rows that are kept, and request, tokens, whether a stop token ended
            them, and log-probability of the first token, of each row let go.
        """
        leaving = torch.ones_like(self.ended) if everything else self.ended
        kept = (~leaving).nonzero()[:, 0]
        answers = [self._answer(int(row)) for row in leaving.nonzero()[:, 0]]
        self.requests = [self.requests[int(row)] for row in kept]
        for name in ("inputs", "mask", "positions", "tokens", "first_logprobs", "ended"):
            setattr(self, name, getattr(self, name)[kept])
        return kept, answers

    def _answer(self, row: int) -> tuple[Request, list[int], bool, float]:
        stops = torch.isin(self.tokens[row], self.stop).nonzero()[:, 0]
        length = int(stops[0]) + 1 if len(stops) else self.tokens.shape[1]
        tokens = self.tokens[row, :length].tolist()
        return self.requests[row], tokens, bool(len(stops)), float(self.first_logprobs[row])


def plan_batches(requests: Sequence[Request], new_tokens: int) -> Iterator[list[Request]]:
    """Batches of similar length, the longest first, each within MAX_ROWS and MAX_POSITIONS."""
    queue = sorted(requests, key=lambda request: -len(request.prompt))
    while queue:
        positions = len(queue[0].prompt) + new_tokens
        rows = max(1, min(MAX_ROWS, MAX_POSITIONS // positions))
        yield queue[:rows]
        queue = queue[rows:]


def choose_tokens(logits: Tensor, sampling: Sampling, draw: torch.Generator) -> Tensor:
    """The next token of each row.

    Args:
        logits: [R, V] float32.
        sampling: Temperature 0 takes the likeliest token; otherwise one is drawn from the
            smallest set of likeliest tokens whose probability reaches ``top_p``.
        draw: Source of randomness.

    Returns:
        Tokens [R] int64.
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


def _generator(first: Request, seed: int, device: torch.device) -> torch.Generator:
    """Randomness that depends on the seed and on the batch that ``first`` begins."""
    digest = hashlib.sha256(f"{seed}/{first.id}/{first.sample}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)

"""Floating-point operations of training, and how many a card can do: model FLOP utilisation.

Counted are the matrix products that the result needs (Chowdhery et al., PaLM, arXiv 2204.02311,
appendix B): 2 for each entry of a weight and token, and 2·(D_qk + D_v) for each head, token and
token that it sees. Unlike there, a causal model's scores are the half that is not masked (Dao,
FlashAttention-2, arXiv 2307.08691, section 4.1), samples of a pack see themselves alone, and the
output head is counted where a token counts, since nowhere else is it needed. A vision tower is not
counted, nor is what is computed twice: activations in gradient checkpointing add the forward pass
of the layers of each branch that trains to the work of a card, and nothing to its utilisation.

A backward pass is two forward ones, one for the gradients of activations and one for those of
weights; where an adapter alone trains, the second is the adapter's.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from wdl.branches.lora import is_adapter
from wdl.branches.reading import output_head
from wdl.system.types import PretrainedConfig, PreTrainedModel

Trains = Literal["all", "adapter", "nothing"]
"""What trains of a branch."""


@dataclass(frozen=True)
class Products:
    """FLOPs of a branch's matrix products in a forward pass.

    Attributes:
        token: Of the layers, per token.
        head: Of the output head, per token that counts.
        scores: Of attention, per pair of a token and one that it sees, by the number of tokens
            that those layers see at most; None for all.
        adapter: Of an adapter, per token.
    """

    token: int
    head: int
    scores: Mapping[int | None, int]
    adapter: int = 0

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Products":
        """Those of a language model, which may be on the ``meta`` device."""
        config = model.config.get_text_config()
        embedding, head = model.get_input_embeddings().weight, output_head(model).weight
        token = adapter = 0
        for name, weight in model.get_decoder().named_parameters():
            if weight is embedding or weight.dim() < 2:
                continue
            size = weight.numel()
            if ".experts." in name and weight.dim() == 3:  # [experts, out, in]
                size = size // len(weight) * config.num_experts_per_tok
            if is_adapter(name):
                adapter += size
            else:
                token += size
        return cls(2 * token, 2 * head.numel(), _scores(config), 2 * adapter)

    def step(self, lengths: Iterable[int], counted: int, trains: Trains) -> int:
        """FLOPs of what a training step does with this branch.

        Args:
            lengths: Tokens of each sample, without padding.
            counted: Tokens that count.
            trains: What trains. A branch of which nothing trains is run forward only.
        """
        lengths = list(lengths)
        tokens, scores = sum(lengths), self._attention(lengths)
        frozen = self.token * tokens + self.head * counted
        if trains == "nothing":
            return frozen + scores
        passes = 3 if trains == "all" else 2
        return passes * frozen + 3 * (scores + self.adapter * tokens)

    def _attention(self, lengths: list[int]) -> int:
        return sum(
            cost * number * seen_pairs(length, window)
            for length, number in Counter(lengths).items()
            for window, cost in self.scores.items()
        )


def seen_pairs(length: int, window: int | None = None) -> int:
    """Pairs of a token and one that it sees, itself or earlier, in a sample of ``length``."""
    full = min(length, window or length)
    return full * (full + 1) // 2 + (length - full) * full


def _scores(config: PretrainedConfig) -> dict[int | None, int]:
    heads = config.num_attention_heads
    plain = getattr(config, "head_dim", None) or config.hidden_size // heads
    # latent attention compares longer vectors than it adds up
    compared = getattr(config, "qk_head_dim", plain)
    added = getattr(config, "v_head_dim", plain)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    kinds = kinds or ["sliding_attention" if window else "full_attention"] * (
        config.num_hidden_layers
    )
    windows = {"full_attention": None, "sliding_attention": window}
    layers = Counter(windows[kind] for kind in kinds if kind in windows)
    return {seen: 2 * heads * (compared + added) * number for seen, number in layers.items()}


class Card(NamedTuple):
    """A kind of accelerator.

    Attributes:
        pattern: Of its name, as torch and people write it.
        flops: Products of bfloat16 matrices without sparsity, FLOPs per second.
        gib: Memory that torch sees, GiB.
    """

    pattern: str
    flops: float
    gib: float


CARDS = (
    Card(r"H200.NVL", 835.5e12, 139.8),
    Card(r"H200", 989.4e12, 139.8),
    Card(r"H100.NVL", 835.5e12, 93.1),
    Card(r"H100.PCIe", 756e12, 79.1),
    Card(r"H100", 989.4e12, 79.1),
    Card(r"A100.*40GB", 312e12, 39.4),
    Card(r"A100", 312e12, 79.1),
    Card(r"B200", 2250e12, 178.3),
    Card(r"L40S", 362e12, 44.4),
    Card(r"A10", 125e12, 22.0),
    Card(r"RTX.4090", 165.2e12, 23.5),
    Card(r"MI300X", 1307.4e12, 191.5),
)
"""From the makers' data sheets, which give twice as many FLOPs where they mean sparse matrices.
Lightning's own table has the sparse ones for H200 and H100 NVL, and no B200 or MI300X."""


def find_card(name: str) -> Card | None:
    """The card of a name, ``NVIDIA H100 80GB HBM3`` or ``H100``; None if it is not known here."""
    if re.search(r"\bMIG\b", name):  # a slice of one
        return None
    return next((c for c in CARDS if re.search(rf"\b{c.pattern}\b", name, re.IGNORECASE)), None)


def peak_flops(name: str) -> float | None:
    """Dense bfloat16 FLOPs per second of the card of a name; None if it is not known here."""
    card = find_card(name)
    return None if card is None else card.flops

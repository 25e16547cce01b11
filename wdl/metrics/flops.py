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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from wdl.branches.lora import is_adapter
from wdl.branches.quantised import quantised_shapes
from wdl.branches.reading import output_head
from wdl.branches.whole_weights import whole_shapes
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
        """Those of a language model, which may be on the ``meta`` device, or divided."""
        config = model.config.get_text_config()
        embedding, head = model.get_input_embeddings().weight, output_head(model).weight
        weights = {n: w for n, w in model.get_decoder().named_parameters() if w is not embedding}
        token = adapter = 0
        shapes = whole_shapes(weights) | quantised_shapes(model.get_decoder())
        for name, shape in shapes.items():
            if len(shape) < 2:
                continue
            size = shape.numel()
            if ".experts." in name and len(shape) == 3:  # [experts, out, in]
                size = size // shape[0] * config.num_experts_per_tok
            if is_adapter(name):
                adapter += size
            else:
                token += size
        rows = whole_shapes({"head": head})["head"].numel()
        return cls(2 * token, 2 * rows, _scores(config), 2 * adapter)

    def step(self, lengths: ArrayLike, counted: int, trains: Trains) -> int:
        """FLOPs of what a training step does with this branch.

        Args:
            lengths: [samples] tokens of each, without padding.
            counted: Tokens that count.
            trains: What trains. A branch of which nothing trains is run forward only.
        """
        lengths = np.asarray(lengths, dtype=np.int64)
        tokens = int(lengths.sum())
        scores = sum(c * seen_pairs(lengths, window) for window, c in self.scores.items())
        frozen = self.token * tokens + self.head * counted
        if trains == "nothing":
            return frozen + scores
        passes = 3 if trains == "all" else 2
        return passes * frozen + 3 * (scores + self.adapter * tokens)


def seen_pairs(lengths: ArrayLike, window: int | None = None) -> int:
    """Pairs of a token and one that it sees, itself or earlier, in samples of ``lengths``."""
    lengths = np.asarray(lengths, dtype=np.int64)
    full = lengths if window is None else np.minimum(lengths, window)
    return int((full * (full + 1) // 2 + (lengths - full) * full).sum())


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
"""From the makers' data sheets (NVIDIA: H100, H200, A100, HGX B200, L40S, A10 Tensor Core GPU, Ada
GPU architecture for RTX 4090; AMD: Instinct MI300X), which give twice as many FLOPs where they mean
sparse matrices. Lightning's own table has the sparse ones for H200 and H100 NVL, and no B200."""


def find_card(name: str) -> Card | None:
    """The card of a name, ``NVIDIA H100 80GB HBM3`` or ``H100``; None if it is not known here."""
    if re.search(r"\bMIG\b", name):  # a slice of one
        return None
    return next((c for c in CARDS if re.search(rf"\b{c.pattern}\b", name, re.IGNORECASE)), None)


def peak_flops(name: str) -> float | None:
    """Dense bfloat16 FLOPs per second of the card of a name; None if it is not known here."""
    card = find_card(name)
    return None if card is None else card.flops

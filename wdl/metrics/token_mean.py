"""A mean over tokens that every batch counts in, however small beside the sum so far."""

import torch
from torch import Tensor
from torchmetrics import Metric


class TokenMean(Metric):
    """Mean over the tokens of all batches and ranks, in float64.

    torchmetrics' MeanMetric casts to the default dtype of the moment, which a strategy may have
    set to one of 16 bits, and leaves out what is not a number.
    """

    full_state_update = False
    total: Tensor
    tokens: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "tokens"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, tokens: int) -> None:
        """Add a batch: a scalar mean over its tokens, and how many they are."""
        self.total += mean.double() * tokens
        self.tokens += tokens

    def compute(self) -> Tensor:
        """Float64 scalar; NaN where there were no tokens."""
        return self.total / self.tokens

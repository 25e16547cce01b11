"""Branches and what trains them."""

from wdl.models.mixed_loss import MixedLoss, mixed_linear_cross_entropy

__all__ = ["MixedLoss", "mixed_linear_cross_entropy"]

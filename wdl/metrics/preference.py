"""Means of what preference training looks at, over micro-batches and ranks, by TRL's names.

Pairs weigh as they do in the loss, so that each question counts once.
"""

import torch
from torch import Tensor
from torchmetrics import Metric

from wdl.losses.preference import Preference

SIDES = ("chosen", "rejected")
DISPLACEMENT = "displacement"


class PreferenceMeans(Metric):
    """Rewards, log-probabilities and lengths of both sides of all pairs.

    The reward of an answer y is β·(ln P(y) − ln P_ref(y)) (arXiv 2305.18290); without a reference
    β·ln P(y) / |y| (arXiv 2405.14734). Whatever the form, as in TRL: ipo and sigmoid_norm compare
    means per token, of which these are not.

        rewards/chosen, rewards/rejected   their means
        rewards/margins                    of chosen minus rejected
        rewards/accuracies                 share of pairs in which chosen has the larger one
        logps/chosen, logps/rejected       ln P(y), nats, summed over the answer
        lengths/difference                 tokens of chosen minus tokens of rejected
        displacement                       share of chosen answers that are less likely than under
                                           the reference: training should raise them

    Args:
        objective: What is trained.
    """

    full_state_update = False
    sums: Tensor
    weight: Tensor

    def __init__(self, objective: Preference) -> None:
        super().__init__()
        self.objective = objective
        self.names = [
            *(f"{quantity}/{side}" for quantity in ("rewards", "logps") for side in SIDES),
            *("rewards/margins", "rewards/accuracies", "lengths/difference"),
            *((DISPLACEMENT,) if objective.needs_reference else ()),
        ]
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        logps: Tensor,
        reference: Tensor | None,
        completions: Tensor,
        chosen: Tensor,
        rejected: Tensor,
        weights: Tensor,
    ) -> None:
        """Add a micro-batch.

        Args:
            logps: [S] float64, of each sequence.
            reference: [S] float64, the same under the reference, where there is one.
            completions: [S] float64, tokens of each answer.
            chosen: [P] int64, position of each pair's chosen sequence.
            rejected: [P] int64, of the rejected one.
            weights: [P] float64.
        """
        beta = self.objective.beta
        rewards = beta * (logps / completions if reference is None else logps - reference)
        margins = rewards[chosen] - rewards[rejected]
        values = [
            *(rewards[chosen], rewards[rejected], logps[chosen], logps[rejected]),
            *(margins, (margins > 0).double()),
            completions[chosen] - completions[rejected],
        ]
        if reference is not None:
            values.append((logps < reference)[chosen].double())
        self.sums += torch.stack(values) @ weights
        self.weight += weights.sum()

    def compute(self) -> dict[str, Tensor]:
        """Float64 scalars by name; NaN where there were no pairs."""
        return dict(zip(self.names, self.sums / self.weight, strict=True))

"""The metrics of graded answers: one value per problem, their mean, and an interval for it."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from wdl.metrics.intervals import bounded_mean


class PerProblem(Metric):
    """Mean over problems; subclasses say in ``update`` what the value of a problem is."""

    values: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("values", [], dist_reduce_fx="cat")

    def compute(self) -> Tensor:
        """The mean over all problems so far."""
        return dim_zero_cat(self.values).mean()


class Share(PerProblem):
    """Mean over problems of values between 0 and 1."""

    def interval(self) -> tuple[float, float]:
        """Interval at 95 % for the mean, over problems (:func:`bounded_mean`).

        Answers to the same problem depend on each other, so a problem counts as one value.
        """
        return bounded_mean(dim_zero_cat(self.values))


class _MeanOfAnswers(PerProblem):
    def update(self, answers: Tensor) -> None:
        """Add problems, ``answers`` [P, n] what is averaged for each."""
        self.values.append(answers.double().mean(1))


class MeanAtN(_MeanOfAnswers, Share):
    """Share of right answers, mean@n; with one answer per problem the accuracy."""


class CutOffRate(_MeanOfAnswers, Share):
    """Share of answers that the limit of tokens ended."""


class AnswerLength(_MeanOfAnswers):
    """Mean number of new tokens of an answer."""


class MajorityVote(Share):
    """Whether the answer that most samples give is right; a tie counts in parts, maj@n."""

    def update(self, correct: Tensor, votes: Tensor) -> None:
        """Add problems.

        Args:
            correct: [P, n] bool.
            votes: [P, n] int64; equal numbers are equal answers, and -1 is no answer.
        """
        values = [_majority(*problem) for problem in zip(correct, votes, strict=True)]
        self.values.append(torch.tensor(values, dtype=torch.float64, device=correct.device))


def _majority(correct: Tensor, votes: Tensor) -> float:
    """Share of right ones among the answers with the most votes."""
    given = votes >= 0
    if not given.any():
        return 0.0
    answers, counts = votes[given].unique(return_counts=True)
    winners = answers[counts == counts.max()]
    right = [bool(correct[votes == winner].any()) for winner in winners]
    return sum(right) / len(right)

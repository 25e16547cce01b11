"""What several answers to one problem amount to."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Probability that k answers drawn from ``samples`` without replacement hold a right one.

    1 - C(n-c, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, Eq. 1):
    its expectation does not depend on n, while that of 1 - (1 - c/n)^k does.

    Raises:
        ValueError: Not 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {correct} right answers among {samples}")
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


def majority(correct: Sequence[bool], answers: Sequence[Hashable]) -> float:
    """Whether the answer that most samples give is right, maj@n; a tie counts in parts.

    Args:
        correct: Whether each answer is right.
        answers: What each states; None is no answer, and no vote.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    right = {answer for answer, is_right in zip(answers, correct, strict=True) if is_right}
    winners = [answer for answer, count in votes.items() if count == max(votes.values())]
    return sum(answer in right for answer in winners) / len(winners) if winners else 0.0

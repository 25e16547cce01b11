"""Coverage of the intervals at 95 %: how often they hold the truth.

    python benchmarks/intervals.py

Wilson's interval is for one answer per problem; its coverage is computed exactly. It jumps between
neighbouring probabilities, as that of every interval for counts does; the normal approximation is
the alternative. The bootstrap is for means of several answers; its coverage is simulated with
problems whose difficulty is drawn from a beta distribution, and the plain percentile bootstrap is
the alternative. The limit is 95 %.
"""

import math
from collections.abc import Callable

import torch

from wdl.metrics.intervals import Z_95, bootstrap_mean, resampled_means, wilson

SIMULATIONS = 2000
RESAMPLES = 1000
SAMPLES = 8


def normal(successes: int, trials: int) -> tuple[float, float]:
    """The textbook interval."""
    share = successes / trials
    half = Z_95 * math.sqrt(share * (1 - share) / trials)
    return share - half, share + half


def coverage(interval: Callable[[int, int], tuple[float, float]], trials: int, p: float) -> float:
    """Probability that the interval of a binomial count holds p."""
    return sum(
        math.comb(trials, count) * p**count * (1 - p) ** (trials - count)
        for count in range(trials + 1)
        if interval(count, trials)[0] <= p <= interval(count, trials)[1]
    )


def print_exact() -> None:
    """Coverage over p: least, mean, largest, and the share of p where it is 93 to 97 %."""
    print(
        f"{'one answer per problem':34}{'Wilson: least  mean  most  93-97':>35}"
        f"{'normal: least  mean':>24}"
    )
    for trials in (30, 40, 254, 500):
        for title, few in (("n·p and n·(1-p) at least 5", False), ("either below 5", True)):
            shares = [step / 200 for step in range(1, 200)]
            chosen = [p for p in shares if (trials * min(p, 1 - p) < 5) == few]
            ours = [coverage(wilson, trials, p) for p in chosen]
            within = sum(0.93 <= share <= 0.97 for share in ours) / len(ours)
            other = [coverage(normal, trials, p) for p in chosen]
            print(
                f"n = {trials:<4}{title:26}{min(ours):14.1%}{sum(ours) / len(ours):7.1%}"
                f"{max(ours):7.1%}{within:7.0%}{min(other):17.1%}{sum(other) / len(other):7.1%}"
            )


def print_simulated() -> None:
    """Coverage of the mean of eight answers to each problem."""
    print(f"\n{'eight answers per problem':34}{'ours':>8}{'percentile':>12}")
    torch.manual_seed(0)
    for problems in (30, 40, 254):
        for a, b in ((1.0, 1.0), (0.5, 1.5)):
            truth = a / (a + b)
            ours = plain = 0
            for simulation in range(SIMULATIONS):
                chances = torch.distributions.Beta(a, b).sample((problems,))
                scores = torch.distributions.Binomial(SAMPLES, chances).sample() / SAMPLES
                low, high = bootstrap_mean(scores, RESAMPLES, simulation)
                ours += low <= truth <= high
                means = resampled_means(scores, RESAMPLES, simulation)
                low, high = means.quantile(0.025).item(), means.quantile(0.975).item()
                plain += low <= truth <= high
            name = f"n = {problems}, difficulty Beta({a}, {b})"
            print(f"{name:34}{ours / SIMULATIONS:8.1%}{plain / SIMULATIONS:12.1%}")


if __name__ == "__main__":
    print_exact()
    print_simulated()

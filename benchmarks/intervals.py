"""Coverage of the intervals at 95 %: how often they hold the truth.

    python benchmarks/intervals.py

Wilson's interval is for one answer per problem; its coverage is computed exactly. It jumps between
neighbouring probabilities, as that of every interval for counts does; the normal approximation is
the alternative. Gaffke's is for means of several answers and for differences between two models;
its coverage is simulated, with Student's as the alternative. The limit is 95 %.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Beta, Binomial

from wdl.metrics.intervals import Z_95, bounded_mean, wilson
from wdl.metrics.paired import paired_test

SIMULATIONS = 400
SAMPLES = 8
STUDENT = {10: 2.262, 30: 2.045, 100: 1.984}  # quantiles at 97.5 % by number of problems


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


def answers(chances: Tensor) -> Tensor:
    """Shares of right answers [problems] to problems that are solved with such ``chances``."""
    return Binomial(SAMPLES, chances).sample() / SAMPLES


def pair(kind: str, problems: int) -> Tensor:
    """Differences [problems] of two models."""
    before = torch.rand(problems) * 0.8
    if kind == "equal":
        return answers(before) - answers(before)
    if kind == "all problems 10 points better":
        return answers(before + 0.1) - answers(before)
    before = torch.full((problems,), 0.95)
    lost = torch.rand(problems) < 0.05
    return answers(torch.where(lost, 0.0, before)) - answers(before)


def print_simulated() -> None:
    """Coverage and width of means and of differences of eight answers to each problem."""
    print(f"\n{'eight answers per problem':46}{'ours':>8}{'width':>8}{'Student':>9}{'width':>8}")
    torch.manual_seed(0)
    for problems in STUDENT:
        for a, b in ((1.0, 1.0), (0.5, 1.5)):
            draws = [answers(Beta(a, b).sample((problems,))) for _ in range(SIMULATIONS)]
            name = f"n = {problems}, difficulty Beta({a}, {b})"
            print_row(name, draws, [bounded_mean(draw) for draw in draws], a / (a + b))
        kinds = {
            "equal": 0.0,
            "all problems 10 points better": 0.1,
            "5 % of problems lost": -0.0475,
        }
        for kind, truth in kinds.items():
            draws = [pair(kind, problems) for _ in range(SIMULATIONS)]
            tests = [paired_test(draw) for draw in draws]
            found = [(test.low, test.high) for test in tests]
            print_row(f"n = {problems}, pair: {kind}", draws, found, truth)


def print_row(
    name: str, draws: list[Tensor], ours: list[tuple[float, float]], truth: float
) -> None:
    """How many of our and of Student's intervals hold the truth, and how wide they are."""
    student = []
    for draw in draws:
        half = STUDENT[len(draw)] * draw.std().item() / math.sqrt(len(draw))
        student.append((draw.mean().item() - half, draw.mean().item() + half))
    columns = [
        (sum(low <= truth <= high for low, high in found), sum(high - low for low, high in found))
        for found in (ours, student)
    ]
    shown = [(covered / len(draws), width / len(draws)) for covered, width in columns]
    print(f"{name:46}" + "".join(f"{share:8.1%}{width:8.3f}" for share, width in shown), flush=True)


if __name__ == "__main__":
    print_exact()
    print_simulated()

r"""The embedded default's data: seeded arithmetic with worked solutions in the paper's format.

Each row holds an `instruction`, the worked `output` and the integer `answer` by itself:

    Compute 49*6+187.
    <think>40*6=240
    9*6=54
    240+54=294
    294+187=481</think> <answer>\boxed{481}</answer>

A two-digit number is multiplied by a digit, and a three-digit number added or subtracted. The steps
are small enough for a model of 0.8 M parameters to learn within minutes; a few thousand problems
are few enough for it to fit them all and still err on new ones.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from wdl.errors import UserError
from wdl.files import write_text

TRAIN_FILE = "train.jsonl"
HELDOUT_FILE = "heldout.jsonl"
BASE_FILE = "base.jsonl"
# Far below the number of distinct problems, so that drawing without repetition stays quick.
MAX_PROBLEMS = 100_000

Row = dict[str, str]


def write_arithmetic(
    folder: Path, *, seed: int = 42, train: int = 3000, heldout: int = 500, base: int = 3000
) -> None:
    """Write `train.jsonl`, `heldout.jsonl` and `base.jsonl`.

    No problem occurs twice in the three files, where `a*b` and `b*a` count as one problem. The
    held-out problems depend on the seed and on `heldout` alone, not on the size of the other files.

    Args:
        folder: Receives the files; created if it does not exist.
        seed: The same seed gives the same bytes.
        train: Number of problems for fine-tuning.
        heldout: Number of problems for evaluation.
        base: Number of problems for the short pre-training of the base model.

    Raises:
        UserError: If a number is not positive, or if more problems are asked for than can be
            drawn without repetition.
    """
    _check_sizes(train=train, heldout=heldout, base=base)
    rows = generate(seed)
    for name, size in ((HELDOUT_FILE, heldout), (TRAIN_FILE, train), (BASE_FILE, base)):
        write_text(folder / name, "".join(json.dumps(row) + "\n" for row in islice(rows, size)))


def generate(seed: int) -> Iterator[Row]:
    """Yield rows without repetition, in an order that the seed fixes.

    Args:
        seed: Seed of the generator.

    Yields:
        Rows `{"instruction", "output", "answer"}`, all strings.
    """
    rng = random.Random(seed)
    seen: set[tuple[int, int, int]] = set()
    while True:
        problem = _draw(rng)
        if problem in seen:
            continue
        seen.add(problem)
        *factors, summand = problem
        rng.shuffle(factors)
        yield _row(factors, summand)


def _draw(rng: random.Random) -> tuple[int, int, int]:
    """The problem `number*digit+summand`, the number first, so that twins are equal."""
    sign = rng.choice((-1, 1))
    while True:
        number, digit = rng.randint(11, 99), rng.randint(2, 9)
        summand = sign * rng.randint(101, 999)
        if number * digit + summand > 0:
            return number, digit, summand


def _row(factors: list[int], summand: int) -> Row:
    answer = str(factors[0] * factors[1] + summand)
    work = "\n".join(_steps(max(factors), min(factors), summand))
    return {
        "instruction": f"Compute {factors[0]}*{factors[1]}{summand:+d}.",
        "output": f"<think>{work}</think> <answer>\\boxed{{{answer}}}</answer>",
        "answer": answer,
    }


def _steps(number: int, digit: int, summand: int) -> list[str]:
    """Multiply the tens and the units of the number, add them, then apply the summand."""
    units = number % 10
    tens = number - units
    product = number * digit
    return [
        f"{tens}*{digit}={tens * digit}",
        f"{units}*{digit}={units * digit}",
        f"{tens * digit}+{units * digit}={product}",
        f"{product}{summand:+d}={product + summand}",
    ]


def _check_sizes(**sizes: int) -> None:
    faults = [
        f"{name}: {size} is not a number of problems; give at least 1"
        for name, size in sizes.items()
        if size < 1
    ]
    if sum(sizes.values()) > MAX_PROBLEMS:
        faults.append(
            f"{', '.join(sizes)}: {sum(sizes.values())} problems in all is more than the generator "
            f"can keep distinct; ask for at most {MAX_PROBLEMS}"
        )
    if faults:
        raise UserError(*faults)

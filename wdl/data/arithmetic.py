r"""The embedded default's data: seeded arithmetic with worked solutions in the paper's format.

Each row holds an `instruction`, the worked `output` and the integer `answer` by itself:

    Compute 68*347.
    <think>347*60=20820
    347*8=2776
    20820+2776=23596</think> <answer>\boxed{23596}</answer>

Three kinds of problem are mixed evenly: three-digit by two-digit products, and two-digit products
with a three-digit number added or subtracted. A tiny model learns the format at once, fits a few
thousand of them completely, and still errs on new ones.
"""

import json
import os
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from wdl.errors import UserError

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
    folder.mkdir(parents=True, exist_ok=True)
    rows = generate(seed)
    for name, size in ((HELDOUT_FILE, heldout), (TRAIN_FILE, train), (BASE_FILE, base)):
        _write_jsonl(folder / name, islice(rows, size))


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
        big, small, summand = problem
        factors = [big, small]
        rng.shuffle(factors)
        yield _row(factors, summand)


def _draw(rng: random.Random) -> tuple[int, int, int]:
    """The problem `big*small+summand`; both factors in order, so that twins are equal."""
    sign = rng.choice((-1, 0, 1))
    first = rng.randint(11, 99) if sign else rng.randint(101, 999)
    second = rng.randint(11, 99)
    # A summand below the product keeps every answer positive.
    summand = sign * rng.randint(100, min(999, first * second - 1))
    return max(first, second), min(first, second), summand


def _row(factors: list[int], summand: int) -> Row:
    expression = f"{factors[0]}*{factors[1]}" + (f"{summand:+d}" if summand else "")
    answer = str(factors[0] * factors[1] + summand)
    work = "\n".join(_steps(max(factors), min(factors), summand))
    return {
        "instruction": f"Compute {expression}.",
        "output": f"<think>{work}</think> <answer>\\boxed{{{answer}}}</answer>",
        "answer": answer,
    }


def _steps(big: int, small: int, summand: int) -> list[str]:
    """Multiply by the tens and the units of the smaller factor, add, then apply the summand."""
    units = small % 10
    tens = small - units
    product = big * small
    steps = [
        f"{big}*{tens}={big * tens}",
        f"{big}*{units}={big * units}",
        f"{big * tens}+{big * units}={product}",
    ]
    return [*steps, f"{product}{summand:+d}={product + summand}"] if summand else steps


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


def _write_jsonl(path: Path, rows: Iterator[Row]) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)

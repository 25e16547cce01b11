r"""The embedded default's data: seeded arithmetic with worked solutions in the paper's format.

Each row holds an `instruction`, the worked `output` and the integer `answer` by itself:

    Compute 49*6+87.
    <think>40*6=240
    9*6=54
    240+54=294
    294+87=381</think> <answer>\boxed{381}</answer>

A two-digit number is multiplied by a digit, and a two-digit number added or subtracted. The steps
are small enough for a model of 0.8 M parameters to learn within minutes; the problems for training
are few enough for it to fit them all and still err on new ones.
"""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from wdl.errors import UserError
from wdl.system.files import write_text

TRAIN_FILE = "train.jsonl"
HELDOUT_FILE = "heldout.jsonl"
BASE_FILE = "base.jsonl"
# Far below the number of distinct problems, so that drawing without repetition stays quick.
MAX_PROBLEMS = 50_000

Row = dict[str, str]


def write_arithmetic(
    folder: Path, *, seed: int = 42, train: int = 1500, heldout: int = 500, base: int = 3000
) -> None:
    """Write `train.jsonl`, `heldout.jsonl` and `base.jsonl`.

    No problem occurs twice in the three files, not even with its factors exchanged: the two-digit
    factor always comes first. The held-out problems depend on the seed and on `heldout` alone, not
    on the size of the other files.

    Args:
        folder: Receives the files; created if it does not exist.
        seed: The same seed gives the same bytes.
        train: Number of problems for fine-tuning.
        heldout: Number of problems for evaluation.
        base: Number of problems for the short pre-training of the base model.

    Raises:
        UserError: If a number is not positive, if more problems are asked for than can be drawn
            without repetition, or if a file is there that this did not write.
    """
    _check_sizes(train=train, heldout=heldout, base=base)
    _check_files(folder)
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
        if problem not in seen:
            seen.add(problem)
            yield _row(*problem)


def _draw(rng: random.Random) -> tuple[int, int, int]:
    """A number, a digit and a signed summand whose result is positive."""
    sign = rng.choice((-1, 1))
    while True:
        number, digit = rng.randint(11, 99), rng.randint(2, 9)
        summand = sign * rng.randint(11, 99)
        if number * digit + summand > 0:
            return number, digit, summand


def _row(number: int, digit: int, summand: int) -> Row:
    answer = str(number * digit + summand)
    work = "\n".join(_steps(number, digit, summand))
    return {
        "instruction": f"Compute {number}*{digit}{summand:+d}.",
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


def _check_files(folder: Path) -> None:
    """Names like train.jsonl are what people's own files are called."""
    for name in (HELDOUT_FILE, TRAIN_FILE, BASE_FILE):
        file = folder / name
        if file.exists() and not (file.is_file() and _is_arithmetic(file)):
            raise UserError(f"{file}: is there already, and is something else; choose a new folder")


def _is_arithmetic(file: Path) -> bool:
    begin = b'{"instruction": "Compute '
    with file.open("rb") as stream:
        return stream.read(len(begin)) == begin


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

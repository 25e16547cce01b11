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
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from wdl.errors import UserError
from wdl.system.files import write_text

SIZES = {"heldout.jsonl": 500, "train.jsonl": 1500, "base.jsonl": 3000}
"""Problems for evaluation, for fine-tuning, and for the short pre-training of the base model."""
_PROBLEM = re.compile(r"Compute \d\d\*(\d)([+-])\d\d\.")
_BEGINNING = b'{"instruction": "Compute '

Row = dict[str, str]


def write_arithmetic(folder: Path, seed: int = 42) -> None:
    """Write the files of ``SIZES``; the same seed gives the same bytes.

    No problem occurs twice in them, not even with its factors exchanged: the two-digit factor
    always comes first.

    Raises:
        UserError: A file is there already that this did not write.
    """
    for file in (folder / name for name in SIZES):  # what people call files of their own
        if file.exists() and not (file.is_file() and _is_arithmetic(file)):
            raise UserError(f"{file}: is there already, and is something else; choose a new folder")
    rows = generate(seed)
    for name, size in SIZES.items():
        write_text(folder / name, "".join(json.dumps(row) + "\n" for row in islice(rows, size)))


def _is_arithmetic(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_BEGINNING)) == _BEGINNING


def generate(seed: int) -> Iterator[Row]:
    """Rows without repetition, in an order that the seed fixes."""
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


def like(instruction: str, rng: random.Random) -> Row | None:
    """A problem with the same digit and sign as another, or None if that is of some other kind."""
    found = _PROBLEM.fullmatch(instruction)
    if found is None:
        return None
    digit, sign = int(found[1]), int(f"{found[2]}1")
    while True:
        number, summand = rng.randint(11, 99), sign * rng.randint(11, 99)
        if number * digit + summand > 0:
            return _row(number, digit, summand)


def _row(number: int, digit: int, summand: int) -> Row:
    """Multiply the tens and the units of the number, add them, then apply the summand."""
    units = number % 10
    tens = number - units
    product = number * digit
    answer = str(product + summand)
    work = (
        f"{tens}*{digit}={tens * digit}\n"
        f"{units}*{digit}={units * digit}\n"
        f"{tens * digit}+{units * digit}={product}\n"
        f"{product}{summand:+d}={answer}"
    )
    return {
        "instruction": f"Compute {number}*{digit}{summand:+d}.",
        "output": f"<think>{work}</think> <answer>\\boxed{{{answer}}}</answer>",
        "answer": answer,
    }

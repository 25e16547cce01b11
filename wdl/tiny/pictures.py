"""The pictures of the embedded default: squares to count and to measure, and pairs to judge.

Each picture has a number of squares, 1 to 9, and a size that all of them have, 1 to 5. Of two, that
one is better whose number and size add up to more. All follows from the seed, to the byte.
"""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from wdl.errors import UserError
from wdl.system.files import new_folder, write_json, write_lines

PIXELS, CELLS = 56, 3
"""Width of a picture, and squares that fit into it side by side."""
NUMBERS, SIZES = range(1, CELLS**2 + 1), range(1, 6)
DESCRIBE = "<image>Describe."
JUDGE = "<image><image>Which one is better?"
RECORD, VERSION = "pictures.json", 1
BASE, COLD_START, POOL, HELD_OUT = 3000, 500, 300, 250
"""Pictures to describe, and pairs to learn from, to practise on and to be examined on."""


@dataclass(frozen=True)
class Scene:
    """What a picture shows."""

    number: int
    size: int

    @property
    def total(self) -> int:
        """What it is judged by."""
        return self.number + self.size

    def __str__(self) -> str:
        return f"{self.number}+{self.size}={self.total}"

    def draw(self, rng: random.Random) -> Image.Image:
        """A picture of it; places and colours are drawn by lot."""
        ground = tuple(rng.randrange(60) for _ in "RGB")
        picture = Image.new("RGB", (PIXELS, PIXELS), ground)
        pen, cell, side = ImageDraw.Draw(picture), PIXELS // CELLS, 2 + 3 * self.size
        colour = tuple(rng.randrange(140, 256) for _ in "RGB")
        for place in rng.sample(range(CELLS**2), self.number):
            row, column = divmod(place, CELLS)
            x, y = (cell * n + rng.randint(0, cell - side - 1) for n in (column, row))
            pen.rectangle((x, y, x + side - 1, y + side - 1), fill=colour)
        return picture


def write_pictures(out: str, seed: int = 42) -> None:
    """Write ``images/`` and, of pairs that share no picture, four files of rows.

    ``base.jsonl`` describes single pictures, ``cold_start.jsonl`` judges pairs with reasons;
    ``pool.jsonl`` and ``heldout.jsonl`` ask for a judgement of each pair in both orders.

    Args:
        out: Folder to write to.
        seed: Of all that is drawn by lot.

    Raises:
        UserError: There is something else.
    """
    folder, made = Path(out), {"seed": seed, "version": VERSION}
    if folder.exists():
        record = folder / RECORD
        if not record.is_file() or json.loads(record.read_text()) != made:
            raise UserError(f"--out {out}: something else is there already; choose a new folder")
        print(f"{out}: there already, made from the same seed")
        return
    with new_folder(folder) as partial:
        _write(partial, random.Random(seed))
        write_json(partial / RECORD, made)


def _write(folder: Path, rng: random.Random) -> None:
    (folder / "images").mkdir()
    names = count()

    def picture(scene: Scene) -> str:
        name = f"images/{next(names):05}.png"
        scene.draw(rng).save(folder / name)
        return name

    def scene() -> Scene:
        return Scene(rng.choice(NUMBERS), rng.choice(SIZES))

    def pairs(number: int) -> Iterator[tuple[str, list[Scene], list[str]]]:
        for _ in range(number):
            scenes = [scene(), scene()]
            while scenes[0].total == scenes[1].total:
                scenes[1] = scene()
            # as many of each judgement, whatever comes by lot
            item = str(next(items))
            if (scenes[0].total > scenes[1].total) != (int(item) % 2 == 0):
                scenes.reverse()
            yield item, scenes, [picture(one) for one in scenes]

    items = count()
    described = []
    for _ in range(BASE):
        one = scene()
        described.append(_answered(DESCRIBE, f"{one}", [picture(one)]))
    write_lines(folder / "base.jsonl", map(json.dumps, described))
    judged = [
        _answered(JUDGE, judgement(scenes), images) for _, scenes, images in pairs(COLD_START)
    ]
    write_lines(folder / "cold_start.jsonl", map(json.dumps, judged))
    for name, number in (("pool", POOL), ("heldout", HELD_OUT)):
        rows = [
            {
                "item": item,
                "problem": JUDGE,
                "solution": better(scenes[::step]),
                "images": images[::step],
            }
            for item, scenes, images in pairs(number)
            for step in (1, -1)
        ]
        write_lines(folder / f"{name}.jsonl", map(json.dumps, rows))


def better(scenes: list[Scene]) -> str:
    """The judgement of two pictures."""
    return f"Image {1 if scenes[0].total > scenes[1].total else 2} is better"


def judgement(scenes: list[Scene]) -> str:
    """The same with reasons."""
    first, second = scenes
    return f"<think>{first}, {second}</think>\n<answer>{better(scenes)}</answer>"


def _answered(question: str, answer: str, images: list[str]) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"conversations": turns, "images": images}

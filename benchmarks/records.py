"""A million and more rows: rows per second and memory of each step from file to plan.

    python benchmarks/records.py --rows 1400000

Every step runs in a fresh process, so that its peak memory is its own; the bar is that memory stays
flat, so compare with a tenth of the rows. Rows are short, to measure what each row costs.
Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from wdl.data.corpus import Corpus, column
from wdl.data.draw import draw_samples
from wdl.data.plan import Plan
from wdl.data.score_store import score_batches
from wdl.data.score_table import ScoreTable
from wdl.data.weights import sampling_weights
from wdl.tiny.model import write_tiny_architecture

ROWS = 1_400_000


def write(folder: Path, rows: int) -> None:
    """Synthetic rows and their entropies."""
    write_tiny_architecture(folder / "model")
    rng = np.random.default_rng(0)
    with (folder / "rows.jsonl").open("w") as stream:
        for n in range(rows):
            stream.write(json.dumps({"prompt": f"{n}+{n}?", "completion": str(2 * n)}) + "\n")
    fields = {f"entropy_{k}": rng.gamma(2, size=rows) for k in range(2)}
    ScoreTable(folder, np.arange(rows), fields).write(folder / "entropies.jsonl")


def corpus(folder: Path) -> Corpus:
    """The rows with their cache."""
    return Corpus(str(folder / "rows.jsonl"), str(folder / "model"), folder / "cache")


def check(folder: Path, rows: int) -> None:
    """Rows are checked and written as Arrow."""
    _ = corpus(folder).records


def encode(folder: Path, rows: int) -> None:
    """Rows are tokenised."""
    _ = corpus(folder).samples


def index(folder: Path, rows: int) -> None:
    """A later run finds all that in the cache, and groups batches for scoring."""
    score_batches(column(corpus(folder).samples, "length").tolist())


def weigh(folder: Path, rows: int) -> None:
    """Entropies are read from a file and turned into weights."""
    sampling_weights("normalised", ScoreTable.read(folder / "entropies.jsonl").rounds())


def draw(folder: Path, rows: int) -> None:
    """The draw alone."""
    draw_samples(np.full(rows, 1 / rows), rows, "with_replacement", 0)


def plan(folder: Path, rows: int) -> None:
    """A padded epoch, all of its steps."""
    lengths = np.random.default_rng(0).integers(60, 300, size=rows)
    list(Plan(np.arange(rows), lengths, lengths, 512, 8, 0).epoch(0))


def packs(folder: Path, rows: int) -> None:
    """A packed epoch, its first step."""
    lengths = np.random.default_rng(0).integers(60, 300, size=rows)
    next(Plan(np.arange(rows), lengths, lengths, 16, 1, 0, 4096).epoch(0))


STEPS: dict[str, Callable[[Path, int], None]] = {
    step.__name__: step for step in (check, encode, index, weigh, draw, plan, packs)
}


def peak() -> int:
    """Highest resident memory so far, in KiB; unlike ru_maxrss, without that of the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1])


def measure(step: str, folder: Path, rows: int) -> None:
    """Run one step; print its seconds, and the peak memory beyond that of the imports."""
    before = peak()
    start = time.perf_counter()
    STEPS[step](folder, rows)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "extra": (peak() - before) / 1024}))


def main() -> None:
    """Print a row for each step and number of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        measure(options.step, options.folder, options.rows)
        return
    print("| step | rows | seconds | rows/s | extra MiB |\n|---|---|---|---|---|")
    for rows in (options.rows // 10, options.rows):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), rows)
            for step in STEPS:
                flags = ["--step", step, "--folder", folder, "--rows", str(rows)]
                command = [sys.executable, __file__, *flags]
                output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
                found = json.loads(output.splitlines()[-1])
                print(
                    f"| {step} | {rows} | {found['seconds']:.2f} "
                    f"| {rows / found['seconds']:.0f} | {found['extra']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

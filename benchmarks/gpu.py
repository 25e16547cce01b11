"""All that wants a GPU, in one call of eight minutes: is it right, how fast is it, does it fit?

    make gpu                               # on a machine with a GPU and torch; writes runs/gpu.md
    python benchmarks/gpu.py --smallest    # the same at its smallest, which a CPU can do

Each part is processes of its own, so one that fails or takes too long says so in its place and the
rest goes on; what is done stands in the file at once. The tables are for benchmarks/README.md. All
that the parts print beside them goes to a log next to it. The exit code is 1 if any part failed.
"""

import argparse
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from loss import hardware

HERE = Path(__file__).parent
ROOT = HERE.parent
CUDA = torch.cuda.is_available()
ENOUGH = 10
"""Seconds that are left below which no part begins."""


@dataclass
class Part:
    """Commands that belong together.

    Attributes:
        title: What it shows.
        commands: What follows ``python``, by what it does; after a failure the rest is left out.
        limit: Seconds for all.
        prints: Whether what they print is a table; otherwise a line says how each ended.
    """

    title: str
    commands: dict[str, list[str]]
    limit: float
    prints: bool = True


def main() -> int:
    """Run the parts that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--smallest", action="store_true", help="to see that all of it runs")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--vllm", metavar="PYTHON", help="an interpreter that has vLLM")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.md"))
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    device = hardware("cuda" if CUDA else "cpu")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(f"# {device}, torch {torch.__version__}\n")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        every = parts(Path(folder), options.smallest, options.vllm)
        for name in options.only:
            if name in every:
                failed |= not run(every[name], options.out, end)
    return int(failed)


NAMES = ["right", "fit", "steps", "mixed", "preference", "scoring", "vllm"]


def parts(folder: Path, smallest: bool, vllm: str | None) -> dict[str, Part]:
    """All parts by name, the most telling first; vLLM's only where there is one."""
    liger = ["--liger"] if CUDA and importlib.util.find_spec("liger_kernel") else []
    once = ["--repeats", "1"] if smallest else []
    tests = ["-m", "pytest", "-q", "-m", "device", "tests/losses", "tests/training"]
    stages = [2] if smallest else [2, 3]
    shapes = ["--shapes", "0.6B", "1.7B", "4B", "--tokens", "16384", "--recompute", "on"]
    steps = ["--shapes", "tiny", "--pairs", "sft", *once] if smallest else [*shapes, *SOME_PAIRS]
    mixed = ["--tokens", "8", *once] if smallest else ["--tokens", "4096", "16384", *BOTH, *liger]
    large = ["--only", "loss", "--tokens", "8192", *liger]
    answers = ["--only", "question", *once] if smallest else large
    dtype = "bfloat16" if CUDA else "float32"
    runs = {k: v for stage in stages for k, v in fit_commands(folder, stage, smallest).items()}
    found = {
        "right": Part("Against float64", {"tests": tests}, 90, prints=False),
        "fit": Part("Fit, resume, export", runs, 150, prints=False),
        "steps": Part("Training steps", {"step.py": [script("step"), *steps]}, 180),
        "mixed": Part(
            "The mixed loss", {"loss.py": [script("loss"), "--dtypes", dtype, *mixed]}, 90
        ),
        "preference": Part(
            "The preference loss",
            {"preference.py": [script("preference"), "--dtype", dtype, *answers]},
            90,
        ),
    }
    if not smallest:  # it has one size
        found["scoring"] = Part("Scoring", {"scoring.py": [script("scoring")]}, 60)
    if vllm:
        command = evaluate(folder, "--engine", "vllm", "--vllm.python", vllm)
        found["vllm"] = Part("vLLM", {"evaluate": command}, 120, prints=False)
    return found


SOME_PAIRS = ["--pairs", "sft", "frozen", "both"]
BOTH = ["--trained", "strong", "both"]


def script(name: str) -> str:
    """A benchmark beside this one."""
    return str(HERE / f"{name}.py")


def fit_commands(folder: Path, stage: int, smallest: bool) -> dict[str, list[str]]:
    """Train under a stage of ZeRO, go on from the checkpoint, take the strong branch out of it."""
    name, checkpoints = f"zero{stage}", folder / f"zero{stage}/latest/checkpoints"
    fit = ["-m", "wdl", "fit", "--config", str(ROOT / "configs/joint.yaml"), "--name", name]
    fit += ["--runs", str(folder), "--data.cache", str(folder / "cache")]
    fit += ["--trainer.strategy.stage", str(stage), "--evaluation.benchmark", "null"]
    fit += ["--evaluation.sft_control", "false", "--data.max_tokens", "512"]
    fit += ["--data.micro_batch_size", "1", "--data.batch_size", "2"]
    fit += ["--data.selection.weights", "uniform", "--trainer.max_epochs", "-1"]
    fit += ["--checkpoint.save_last", "true"]
    fit += ["--trainer.precision", "bf16-true"] if CUDA else []
    first, more = ("2", "3") if smallest else ("20", "30")
    last = str(checkpoints / "last.ckpt")
    out = str(folder / f"export{stage}")
    return {
        f"ZeRO-{stage}, fit": [*fit, "--trainer.max_steps", first],
        f"ZeRO-{stage}, resume": [*fit, "--trainer.max_steps", more, "--ckpt_path", "last"],
        f"ZeRO-{stage}, export": ["-m", "wdl", "export", "--ckpt", last, "--out", out],
    }


def evaluate(folder: Path, *engine: str) -> list[str]:
    """Some answers of an embedded model."""
    tiny = ROOT / "configs/tiny"
    return [
        *("-m", "wdl", "evaluate", "--model", str(tiny / "strong"), "--benchmarks", "arithmetic"),
        *("--data", str(tiny / "heldout.jsonl"), "--protocol", "quick", "--limit", "64"),
        *("--out", str(folder / "graded"), *engine),
    ]


def run(part: Part, out: Path, end: float) -> bool:
    """Add a part to the file; whether all of it ended well."""
    write(out, f"\n## {part.title}\n")
    deadline = min(end, time.monotonic() + part.limit)
    for name, command in part.commands.items():
        began = time.monotonic()
        if deadline - began < ENOUGH:
            write(out, f"- {name}: no time was left")
            return False
        with out.with_suffix(".log").open("a") as log:
            log.write(f"==> python {shlex.join(command)}\n")
            log.flush()
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdout=subprocess.PIPE if part.prints else log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
            try:
                table, _ = process.communicate(timeout=deadline - began)
                ending = f"exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                table, _ = process.communicate()
                ending = "ended, since its time was over,"
        if table:
            write(out, table)
        if process.returncode or not part.prints:
            write(out, f"- {name}: {ending} after {time.monotonic() - began:.0f} s")
        if process.returncode:
            return False
    return True


def write(out: Path, text: str) -> None:
    """To the file and the screen."""
    print(text, flush=True)
    with out.open("a") as stream:
        stream.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())

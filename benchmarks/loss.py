"""Time and memory of the mixed loss: ours, materialised logits, and the bare matrix products.

    python benchmarks/loss.py                   # the cells that have a bar
    python benchmarks/loss.py --all             # the whole matrix
    python benchmarks/loss.py --tokens 512 4096 --dtypes bfloat16 --trained both
    python benchmarks/loss.py --liger           # on a GPU, beside Liger's fused cross-entropy

A cell is a fresh process that runs its variants in turn, again and again, so that a busy moment of
the machine hits them alike. Seconds are CPU seconds of two threads (on a GPU, seconds between
events), the median of the repeats; memory is the peak beyond weights and inputs, gradients
included. The limit is the four matrix products alone (six where both branches train), on the
tokens that count, in the dtype that is fastest on this device.

Liger knows no mixed loss, but it is the cross-entropy of both branches' hidden states and heads
side by side, [λ·h_s, (1−λ)·h_w] · [W_s, W_w]ᵀ, which are put so within the time. Linux only.
"""

import argparse
import ctypes
import gc
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wdl.constants import IGNORE_INDEX
from wdl.losses.matmul import product_dtype
from wdl.losses.mixed_loss import CHUNK_BYTES, mixed_linear_cross_entropy
from wdl.metrics.flops import peak_flops

VOCABULARY, HIDDEN, LAM = 151_936, 1024, 0.5
MATERIALISED_BYTES = {"float32": 28, "bfloat16": 18}
"""Peak per logit of the materialised way; a cell that would not fit in memory leaves it out."""

Run = Callable[[], None]


@dataclass
class Cell:
    """One row of the table."""

    tokens: int
    dtype: str
    trained: str
    ignored: float
    device: str
    repeats: int
    liger: bool

    @property
    def counted(self) -> int:
        """Tokens that are not ignored."""
        return self.tokens - round(self.tokens * self.ignored)

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products."""
        return 2 * self.counted * HIDDEN * VOCABULARY * (6 if self.trained == "both" else 4)


@dataclass
class Measurement:
    """CPU or GPU seconds, wall-clock seconds, and peak extra bytes of one run."""

    seconds: float
    wall: float
    extra: int


def main() -> None:
    """Measure the cells that the command line asks for and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--trained", nargs="+", default=["strong"], choices=["strong", "both"])
    parser.add_argument("--ignored", type=float, nargs="+", default=[0.3])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--all", action="store_true", help="the whole matrix of cells")
    parser.add_argument("--liger", action="store_true", help="where liger-kernel is installed")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        measured = measure(Cell(**json.loads(options.cell)))
        print(json.dumps({name: asdict(result) for name, result in measured.items()}))
        return
    if options.all:
        options.tokens, options.dtypes = [512, 1024, 2048, 4096], ["float32", "bfloat16"]
        options.trained, options.ignored = ["strong", "both"], [0.0, 0.3]
    print(f"{hardware(options.device)}, torch {torch.__version__}, V={VOCABULARY}, H={HIDDEN}")
    print(HEADER)
    for dtype, trained, ignored, tokens in product(
        options.dtypes, options.trained, options.ignored, options.tokens
    ):
        cell = Cell(tokens, dtype, trained, ignored, options.device, options.repeats, options.liger)
        print(row(cell, measure_apart(cell)), flush=True)


HEADER = """\
| tokens | dtype | trains | ignored | ours s | wall s | GFLOP/s | × products | cheap | full \
| materialised s | × faster | extra MiB | full MiB | materialised MiB | × smaller \
| Liger s | × faster | Liger MiB |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


def row(cell: Cell, measured: dict[str, Measurement]) -> str:
    """One line of the table."""
    ours, limit = measured["ours"], measured["products"]
    naive, liger = measured.get("materialised"), measured.get("liger")
    rate = f"{cell.flops / ours.wall / 1e9:.0f}"
    peak = peak_flops(hardware(cell.device))
    if peak and cell.dtype == "bfloat16":
        rate += f" (MFU {cell.flops / ours.wall / peak:.0%})"
    cells = [
        cell.tokens,
        cell.dtype,
        cell.trained,
        f"{cell.ignored:.0%}",
        f"{ours.seconds:.3g}",
        f"{ours.wall:.3g}",
        rate,
        f"{ours.seconds / limit.seconds:.2f}",
        *(f"{measured[level].seconds / ours.seconds - 1:+.1%}" for level in ("cheap", "full")),
        f"{naive.seconds:.3g}" if naive else "does not fit",
        f"{naive.seconds / ours.seconds:.2f}" if naive else "",
        ours.extra >> 20,
        measured["full"].extra >> 20,
        naive.extra >> 20 if naive else "",
        f"{naive.extra / ours.extra:.1f}" if naive else "",
        f"{liger.seconds:.3g}" if liger else "",
        f"{liger.seconds / ours.seconds:.2f}" if liger else "",
        liger.extra >> 20 if liger else "",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def hardware(device: str) -> str:
    """Name of the processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{names[0] if names else platform.machine()} ({capability}), 2 threads"


def measure_apart(cell: Cell) -> dict[str, Measurement]:
    """Measure a cell in a process of its own, whose peak memory nothing else has touched."""
    # threads that wait for each other by spinning would count as CPU seconds on a busy machine
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, __file__, "--cell", json.dumps(asdict(cell))]
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout
    return {name: Measurement(**result) for name, result in json.loads(output).items()}


def measure(cell: Cell) -> dict[str, Measurement]:
    """Median seconds, fastest wall time and largest peak of each variant, in turn."""
    runs = variants(cell)
    once = measure_cuda if cell.device == "cuda" else measure_cpu
    results: dict[str, list[Measurement]] = {name: [] for name in runs}
    for _ in range(cell.repeats):
        for name, run in runs.items():
            results[name].append(once(run))
    return {
        name: Measurement(
            statistics.median(result.seconds for result in several),
            min(result.wall for result in several),
            max(result.extra for result in several),
        )
        for name, several in results.items()
    }


def measure_cpu(run: Run) -> Measurement:
    """One run, after memory that was freed has gone back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before, cpu, wall = resident("VmRSS"), cpu_seconds(), time.perf_counter()
    run()
    return Measurement(cpu_seconds() - cpu, time.perf_counter() - wall, resident("VmHWM") - before)


def measure_cuda(run: Run) -> Measurement:
    """One run on a GPU."""
    run()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    end.record()
    end.synchronize()
    seconds = start.elapsed_time(end) / 1000
    return Measurement(seconds, seconds, torch.cuda.max_memory_allocated() - before)


def cpu_seconds() -> float:
    """CPU time of this process, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident(field: str) -> int:
    """Memory of this process in bytes: VmRSS now, or VmHWM, its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def variants(cell: Cell) -> dict[str, Run]:
    """What is timed in a cell, by name."""
    tensors, labels = inputs(cell)

    def step(loss: Callable[[], Tensor]) -> Run:
        def run() -> None:
            loss().backward()
            for tensor in tensors:
                tensor.grad = None

        return run

    hs, ws, hw, ww = tensors
    runs = {
        "ours": step(lambda: mixed_linear_cross_entropy(hs, ws, hw, ww, labels, LAM)),
        "cheap": step(
            lambda: mixed_linear_cross_entropy(hs, ws, hw, ww, labels, LAM, dynamics="cheap").loss
        ),
        "full": step(
            lambda: mixed_linear_cross_entropy(hs, ws, hw, ww, labels, LAM, dynamics="full").loss
        ),
        "products": products(cell, tensors),
    }
    if fits(cell):
        runs["materialised"] = step(lambda: materialised(hs, ws, hw, ww, labels))
    if cell.liger:
        runs["liger"] = step(lambda: liger(hs, ws, hw, ww, labels))
    return runs


def fits(cell: Cell) -> bool:
    """Whether the materialised way has the memory it needs."""
    if cell.device == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1])
    return cell.tokens * VOCABULARY * MATERIALISED_BYTES[cell.dtype] + 2**31 < free


def inputs(cell: Cell) -> tuple[list[Tensor], Tensor]:
    """Hidden state and head of strong, then of weak, and the labels."""
    torch.manual_seed(0)
    dtype = getattr(torch, cell.dtype)
    tensors = []
    for trained in (True, cell.trained == "both"):
        hidden = torch.randn(cell.tokens, HIDDEN, device=cell.device, dtype=dtype)
        head = torch.randn(VOCABULARY, HIDDEN, device=cell.device, dtype=dtype)
        tensors += [hidden.requires_grad_(trained), head.div_(32).requires_grad_(trained)]
    labels = torch.randint(0, VOCABULARY, (cell.tokens,), device=cell.device)
    labels[torch.randperm(cell.tokens, device=cell.device)[cell.counted :]] = IGNORE_INDEX
    return tensors, labels


def materialised(hs: Tensor, ws: Tensor, hw: Tensor, ww: Tensor, labels: Tensor) -> Tensor:
    """The reference behaviour: all logits of both branches, stacked, mixed, made float32."""
    strong, weak = hs @ ws.T, hw @ ww.T
    logits = torch.stack((weak, strong))
    shares = torch.tensor([1 - LAM, LAM], dtype=logits.dtype, device=logits.device)
    mixed = (shares.view(2, 1, 1) * logits).sum(0)
    return F.cross_entropy(mixed.float(), labels, ignore_index=IGNORE_INDEX)


def liger(hs: Tensor, ws: Tensor, hw: Tensor, ww: Tensor, labels: Tensor) -> Tensor:
    """Liger's fused linear cross-entropy on both branches side by side."""
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    hidden = torch.cat((LAM * hs, (1 - LAM) * hw), dim=1)
    return LigerFusedLinearCrossEntropyLoss(ignore_index=IGNORE_INDEX)(
        torch.cat((ws, ww), 1), hidden, labels
    )


def products(cell: Cell, tensors: list[Tensor]) -> Run:
    """The matrix products alone, chunked like ours, in buffers that exist already."""
    dtype = product_dtype(tensors[0])
    branches = [tensor.detach().to(dtype) for tensor in tensors]
    strong, weak = branches[:2], branches[2:]
    trained = [strong, weak] if cell.trained == "both" else [strong]
    gradients = [[torch.zeros_like(tensor) for tensor in branch] for branch in trained]
    chunks = -(-cell.counted * VOCABULARY * 4 // CHUNK_BYTES[cell.device])
    size = -(-cell.counted // chunks)
    logits = strong[0].new_empty(size, VOCABULARY)

    def run() -> None:
        for start in range(0, cell.counted, size):
            rows = slice(start, min(start + size, cell.counted))
            z = logits[: rows.stop - start]
            torch.mm(strong[0][rows], strong[1].T, out=z)
            z.addmm_(weak[0][rows], weak[1].T)
            for (hidden, head), (grad_hidden, grad_head) in zip(trained, gradients, strict=True):
                torch.mm(z, head, out=grad_hidden[rows])
                grad_head.addmm_(z.T, hidden[rows])

    return run


if __name__ == "__main__":
    main()

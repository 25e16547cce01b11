"""Lightning without transformers, matplotlib and torch's compiler, all of which work afterwards."""

import subprocess
import sys

LIGHT = """
import sys
from wdl.system.imports import without_extras
with without_extras():
    import lightning.pytorch.cli
    {meanwhile}
print(*sorted({{"transformers", "matplotlib", "torch._dynamo"}} & sys.modules.keys()))
"""
COMPILED = """
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.compile import _maybe_unwrap_optimized, from_compiled
model = LightningModule()
assert _maybe_unwrap_optimized(model) is model
assert from_compiled(torch.compile(model)) is model
"""
METRICS = """
from torchmetrics.text.bert import BERTScore
from torchmetrics.utilities.imports import _MATPLOTLIB_AVAILABLE
assert _MATPLOTLIB_AVAILABLE
"""


def run(after: str, meanwhile: str = "") -> str:
    code = LIGHT.format(meanwhile=meanwhile) + after
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_that_is_not_needed_is_imported_and_all_works_later() -> None:
    assert run(COMPILED + METRICS) == ""


def test_who_needs_the_compiler_meanwhile_gets_it() -> None:
    after = "import torch, torch._dynamo\nassert torch._dynamo.config is config"
    assert run(after + COMPILED, "from torch._dynamo import config") == "torch._dynamo"

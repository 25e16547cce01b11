"""What a fit imports without transformers and matplotlib, both of which work afterwards."""

import subprocess
import sys

CODE = """
import gc, sys
from wdl.system.imports import without_extras
with without_extras():
    import wdl.fit
assert gc.isenabled()
assert not {"transformers", "matplotlib"} & sys.modules.keys()
from torchmetrics.text.bert import BERTScore
from torchmetrics.utilities.imports import _MATPLOTLIB_AVAILABLE
assert _MATPLOTLIB_AVAILABLE
"""


def test_nothing_that_is_not_needed_is_imported_and_all_works_later() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

"""Decoder layers compiled by torch, each in place, so that no weight gets another name.

Layer by layer, since all are alike and the first is compiled for all. Attention over packs stays
as it is, between two graphs of each layer: it is a kernel already, and its borders are other
numbers in every batch.
"""

import shutil
from typing import Literal

import torch

from wdl.errors import UserError
from wdl.system.types import PreTrainedModel

Backend = Literal["inductor", "aot_eager"]
"""What compiles: inductor to kernels; aot_eager to nothing faster, to see what tracing does."""


def check_backend(backend: Backend) -> None:
    """Refuse what would end in the first step.

    Raises:
        UserError: There is no C++ compiler, which inductor needs on a CPU.
    """
    if backend == "inductor" and not torch.cuda.is_available() and shutil.which("g++") is None:
        raise UserError(
            "model.compile_backend: inductor needs the compiler g++ on a CPU; install it, or leave "
            "this out"
        )


def compile_layers(model: PreTrainedModel, backend: Backend) -> None:
    """Compile the layers of a decoder when they first run, for batches of any size.

    Raises:
        UserError: It has none.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise UserError(
            f"model.compile_backend: where a {type(model).__name__} keeps its layers is not known "
            "here; leave this out"
        )
    for layer in layers:
        layer.compile(backend=backend, dynamic=True)

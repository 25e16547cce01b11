"""The options of the vLLM engine; apart from it, so that ``--help`` imports no torch."""

import sys
from dataclasses import dataclass

from wdl.config.paths import InputPath


@dataclass(frozen=True)
class VllmOptions:
    """Where vLLM is and what it may use.

    Args:
        python: Interpreter of the environment with vLLM; null is this one.
        tensor_parallel_size: Accelerators that share one copy of the model.
        data_parallel_size: Copies of the model, each with its share of the problems.
        max_num_seqs: Answers that a copy writes at a time.
        gpu_memory_utilization: Share of an accelerator's memory to use.
        limit: Seconds without any sign of life before the engine is given up.
    """

    python: InputPath | None = None
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1
    max_num_seqs: int = 256
    gpu_memory_utilization: float = 0.9
    limit: float = 1800.0

    @property
    def interpreter(self) -> str:
        """The interpreter to start."""
        return str(self.python or sys.executable)

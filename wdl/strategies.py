"""DeepSpeed as the strategy of every configuration, on CUDA devices and on CPU processes.

Lightning's strategy insists on CUDA; DeepSpeed itself runs on CPU over gloo. This subclass lifts
that, and exposes only the settings that a configuration should have.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor
from torch.optim import Optimizer

from wdl.errors import UserError


class DeepSpeed(DeepSpeedStrategy):
    """ZeRO data parallelism.

    Args:
        stage: What is sharded over the processes: 1 optimizer state, 2 gradients too, 3
            parameters too.
        offload_optimizer: Keep the optimizer state in host memory.
        offload_parameters: Keep the parameters in host memory (stage 3 only).
    """

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
    ) -> None:
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            logging_batch_size_per_gpu=1,
            exclude_frozen_parameters=True,
        )
        assert isinstance(self.config, dict)
        # DeepSpeed's own CPU Adam would have to be compiled on the user's machine
        self.config["zero_force_ds_cpu_optimizer"] = False
        self._hf_config: Any = None
        # checked later, since jsonargparse would bury the message
        self._offload_parameters = offload_parameters

    def setup_environment(self) -> None:
        """Start the processes, on CUDA devices or on CPUs.

        Raises:
            UserError: Neither, or parameters are to be offloaded that are not sharded.
        """
        if not isinstance(self.accelerator, CPUAccelerator | CUDAAccelerator):
            raise UserError(
                "trainer.accelerator: DeepSpeed runs on cuda and cpu; use --trainer.accelerator cpu"
            )
        if self._offload_parameters and not self.zero_stage_3:
            raise UserError(
                "trainer.strategy.init_args.offload_parameters: only stage 3 shards parameters; "
                "set stage to 3"
            )
        # past Lightning's own check for CUDA
        super(DeepSpeedStrategy, self).setup_environment()

    @property
    def root_device(self) -> torch.device:
        """This process's device; DeepSpeed wants an index on CPU too."""
        device = super().root_device
        return torch.device("cpu", 0) if device.type == "cpu" else device

    def setup_distributed(self) -> None:
        """Join the process group."""
        if self.root_device.type == "cpu":
            import deepspeed

            # its shared-memory collective needs a compiler at run time; gloo does the work
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            self.set_world_ranks()
            self._init_deepspeed_distributed()
        else:
            super().setup_distributed()

    def backward(
        self, closure_loss: Tensor, optimizer: Optimizer | None, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Backward without DeepSpeed's division by the accumulation, which Lightning has done."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Under stage 3, tell transformers to shard weights as it loads them."""
        self._init_config_if_needed()
        if self.zero_stage_3:
            from transformers.integrations.deepspeed import HfDeepSpeedConfig

            self._hf_config = HfDeepSpeedConfig(self.config)  # in force as long as it is alive
        with super().model_sharded_context():
            yield

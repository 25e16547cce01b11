"""DeepSpeed as the strategy of every configuration, on CUDA devices and on CPU processes.

Lightning's strategy insists on CUDA; DeepSpeed itself runs on CPU over gloo. This subclass lifts
that, exposes only the settings that a configuration should have, writes checkpoints that are whole
or not there, and validates checkpoints of every stage and number of processes.
"""

import gc
import itertools
import shutil
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed
from torch.optim import Optimizer

from wdl.branches.whole_weights import set_weights, whole_shapes
from wdl.errors import UserError
from wdl.system.files import replace_folder, sync
from wdl.training.checkpoints import Manifest, files_of, read_state, read_weights, write_manifest
from wdl.training.resume import check_strategy, check_weights

_BARRIERS = itertools.count()
"""Numbers the barriers that this process has come to."""


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

            # in force as long as it is alive: an export must not be sharded when it is read back
            sharded = HfDeepSpeedConfig(self.config)
        with super().model_sharded_context():
            yield
        if self.zero_stage_3:
            del sharded

    def barrier(self, name: str | None = None) -> None:
        """Wait for all processes, however long one of them has to work alone."""
        if self._multi_device and distributed.is_initialized():
            wait_for_all_processes()

    def teardown(self) -> None:
        """Also let go of the engine, whose copies of all weights leave a child process no room."""
        super().teardown()
        engine: Any = self.model
        if engine is not None and engine is not self.lightning_module:  # or it was never made
            engine.destroy()
            engine.module_forward_pre_hook.remove()
            engine.module_forward_post_hook.remove()
            for parameter in engine.module.parameters():
                vars(parameter).pop("_z3_optimizer", None)
        del engine
        self.model, self.optimizers, self.lr_scheduler_configs = self.lightning_module, [], []
        gc.collect()  # engine and optimizer hold each other
        torch.cuda.empty_cache()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Write a folder, which gets its name when all processes have written their files.

        Raises:
            UserError: It could not be written. Earlier checkpoints are as they were.
        """
        folder = Path(self.broadcast(str(filepath)))
        partial = folder.with_name(f".{folder.name}.partial")
        if self.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
        self.barrier("partial checkpoint removed")
        try:
            super().save_checkpoint(checkpoint, partial, storage_options)
            # each process its own: on a shared disk, others may not yet see all of them
            own = files_of(partial, self.global_rank)
            for name in own:
                sync(partial / name)
        except (OSError, RuntimeError) as error:
            written = ("PytorchStreamWriter", "inline_container")  # how torch says it of a disk
            if isinstance(error, RuntimeError) and not any(by in str(error) for by in written):
                raise
            if self.is_global_zero:
                shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"{folder}: the checkpoint could not be written ({error}); earlier ones are as "
                "they were. Make room, and go on with --ckpt_path last"
            ) from error
        files = self._merged(own)
        if self.is_global_zero:
            write_manifest(partial, Manifest(self.zero_stage, self.world_size, files))
            replace_folder(partial, folder)

    def _merged(self, own: dict[str, int]) -> dict[str, int]:
        """The files of all processes, once all have got here."""
        parts: list[dict[str, int]] = [own]
        if self._multi_device:
            parts = [{}] * self.world_size
            distributed.all_gather_object(parts, own)
        return {name: size for part in parts for name, size in part.items()}

    @property
    def zero_stage(self) -> int:
        """ZeRO stage."""
        assert isinstance(self.config, dict)
        return self.config["zero_optimization"]["stage"]

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A fit goes on with DeepSpeed's own state; anything else reads the weights alone."""
        # on a shared disk, processes may not yet see the same checkpoint as the newest
        path = Path(self.broadcast(str(checkpoint_path)))
        assert self.lightning_module is not None
        if self.lightning_module.trainer.state.fn != TrainerFn.FITTING:
            # not through DeepSpeed, which cannot restore an engine without an optimizer
            counts = self.is_global_zero or not self.zero_stage_3
            weights = read_weights(path) if counts else None
            if weights is not None:
                own = self.lightning_module.state_dict(keep_vars=True)
                check_weights(whole_shapes(own), whole_shapes(weights))
            set_weights(self.lightning_module, weights)
            return read_state(path)
        check_strategy(path, self.zero_stage, self.world_size)
        return super().load_checkpoint(path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing: the weights are in place after :meth:`load_checkpoint`."""


def wait_for_all_processes() -> None:
    """A barrier without a time limit, whatever the process group's own is.

    Waits at the store through which the processes met: a collective would run into its limit, half
    an hour, while one process encodes data or writes a large model.
    """
    store = distributed.distributed_c10d._get_default_store()
    key = f"wdl/barrier/{next(_BARRIERS)}"
    if store.add(key, 1) == distributed.get_world_size():
        store.set(f"{key}/open", "")
    pause = 0.001
    while not store.check([f"{key}/open"]):
        time.sleep(pause)
        pause = min(2 * pause, 0.5)

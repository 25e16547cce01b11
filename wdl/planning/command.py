"""``wdl plan``: what a fit will need, from its configuration alone.

The options are those of ``wdl fit``, and a few of its own. Of models only config.json is read, and
of GPUs nothing but a name.
"""

import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from wdl.branches.sources import check_source
from wdl.errors import UserError
from wdl.fit import FitCLI
from wdl.losses.mixed_loss import CHUNK_BYTES
from wdl.metrics.flops import CARDS, find_card
from wdl.planning.memory import Machine, Memory, memory
from wdl.planning.simulation import Loss, MicroBatch, add_branches
from wdl.planning.workload import Workload, given_workload, read_workload
from wdl.system.files import write_json
from wdl.training.deepspeed import DeepSpeed
from wdl.training.trainer_options import check_options, check_precision

GB = 1e9
OUTSIDE = 2 * GB
"""What CUDA, its kernels and communication take of a GPU, which torch does not count."""
_PRECISIONS = {None: "32-true", "32": "32-true", "64": "64-true"} | {
    kind: f"{kind}-mixed" for kind in ("16", "bf16")
}


class PlanCLI(FitCLI):
    """Parses as a fit does, prints a plan and trains nothing."""

    verbs = FitCLI.verbs | {"fit": ("plan", "Says what a fit will need, without weights or GPUs.")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Also those of a plan."""
        super().add_arguments_to_parser(parser)
        parser.add_argument("--card", type=str, default="H100", help="The GPU, by its name.")
        parser.add_argument(
            "--mfu", type=float, default=0.35, help="Share of the card's bfloat16 peak that is met."
        )
        for name, what in (("samples", "How many samples"), ("sample_tokens", "Tokens of each")):
            parser.add_argument(
                f"--{name}", type=int, default=None, help=f"{what}, if no data are."
            )
        parser.add_argument("--out", type=str, default=None, help="A JSON file of all numbers.")

    def _set_seed(self) -> None:
        os.environ["PL_GLOBAL_SEED"] = str(self._get(self.config, "seed_everything") or 0)

    def before_instantiate_classes(self) -> None:
        """Refuse what a fit would."""
        config = self.config[self.subcommand]
        check_options(config.trainer, fitting=True)
        if find_card(config.card) is None:
            names = ", ".join(card.pattern.replace(".*", " ").replace(".", " ") for card in CARDS)
            raise UserError(f"--card {config.card}: is not known here; choose from {names}")
        if not 0 < config.mfu <= 1:
            raise UserError(f"--mfu {config.mfu}: is a share of the card's peak, in (0, 1]")
        if (config.samples is None) != (config.sample_tokens is None):
            raise UserError("--samples and --sample_tokens go together; give both, or none")

    def instantiate_trainer(self, **kwargs: Any) -> None:  # type: ignore[override]
        """None: this machine is another."""

    def after_instantiate_classes(self) -> None:
        """Plan."""
        config = self.config[self.subcommand]
        strategy = self._get(self.config_init, "trainer").strategy
        machine = _machine(config.trainer, strategy)
        module, data = self.model, self.datamodule
        if module.lora is not None and module.lora.quantised:
            raise UserError("model.lora.quantised: 4 bits are not planned yet; leave it out")
        data.check_reader(module.batch_type)
        for name, source in module.sources.items():
            check_source(source, f"model.{name}", weights=False)
        add_branches(module, machine.dtype)
        if config.samples is None:
            work = read_workload(module, data, machine.processes)
        else:
            given = config.samples, config.sample_tokens
            work = given_workload(module, data, machine.processes, *given)
        steps = _total_steps(config.trainer, work.steps)
        kept = memory(module, machine, work.largest, _loss(module), work.accumulation)
        plan = _plan(module, machine, work, steps, kept, config)
        lines = _lines(plan)
        card = find_card(config.card)
        assert card is not None
        if plan["memory"]["peak"] + OUTSIDE > card.gib * 2**30:
            plan["instead"] = _instead(module, machine, work)
            lines += ["it does not fit. With one change, the peak would be:"]
            lines += [f"  {key:<46}{_gb(peak)}" for key, peak in plan["instead"].items()]
        print("\n".join(lines))
        if config.out is not None:
            write_json(Path(config.out), plan)

    def _run_subcommand(self, subcommand: str) -> None: ...


def _machine(trainer: Any, strategy: Any) -> Machine:
    devices, nodes = str(trainer.devices), int(trainer.num_nodes)
    if re.fullmatch(r"\d+", devices):
        count = int(devices)
    elif re.fullmatch(r"[\d, \[\]]+", devices):
        count = len(re.findall(r"\d+", devices))
    else:
        raise UserError(f"trainer.devices: {devices} depends on the machine; give a number")
    if count * nodes < 1:
        raise UserError(f"trainer.devices: {devices} on {nodes} nodes train nothing; give a number")
    zero = strategy if isinstance(strategy, DeepSpeed) else None
    if zero is None and not str(strategy).startswith(("auto", "ddp")):
        raise UserError(
            f"trainer.strategy: {strategy} is not known here; use "
            "wdl.training.deepspeed.DeepSpeed, ddp or auto"
        )
    given = None if trainer.precision is None else str(trainer.precision)
    precision = _PRECISIONS.get(given, str(given))
    check_precision(precision, zero is not None)
    settings: Any = {} if zero is None else zero.config
    offload = settings.get("zero_optimization", {})
    return Machine(
        processes=count * nodes,
        stage=None if zero is None else zero.zero_stage,
        offload_optimizer="offload_optimizer" in offload,
        offload_parameters="offload_param" in offload,
        precision=precision,
    )


def _loss(module: Any) -> Loss:
    dynamics = getattr(module, "dynamics", None)
    return Loss(CHUNK_BYTES["cuda"], full=dynamics is not None and dynamics.level == "full")


def _total_steps(trainer: Any, epoch: int) -> int:
    epochs, most = trainer.max_epochs, trainer.max_steps
    if epochs in (None, -1) and most == -1:
        raise UserError(
            "trainer.max_epochs: the learning rate's schedule needs an end; set it or max_steps"
        )
    ends = [epochs * epoch] if epochs not in (None, -1) else []
    return min([*ends, *([most] if most != -1 else [])])


def _plan(
    module: Any, machine: Machine, work: Workload, steps: int, kept: Memory, config: Any
) -> dict[str, Any]:
    """All numbers; bytes, FLOPs and seconds."""
    card = find_card(config.card)
    assert card is not None
    flops = work.flops * steps // work.steps
    parameters = {
        name: {
            "all": sum(p.numel() for p in branch.parameters()),
            "train": sum(p.numel() for p in branch.parameters() if p.requires_grad),
        }
        for name, branch in module.branches.items()
    }
    width = {"bfloat16": 2, "float16": 2, "float32": 4}.get(str(config.export.dtype))
    export = parameters["strong"]["all"] * (width or machine.dtype.itemsize)
    return {
        "parameters": parameters,
        "memory": {
            "parts": kept.parts,
            "backward": kept.backward,
            "step": kept.step,
            "peak": max(kept.backward, kept.step),
        },
        "card": {"name": config.card, "memory": card.gib * 2**30, "flops": card.flops},
        "processes": machine.processes,
        "largest_micro_batch": work.largest.tokens,
        "steps": steps,
        "tokens": work.tokens * steps // work.steps,
        "flops_per_step": work.flops // work.steps,
        "flops": flops,
        "mfu": config.mfu,
        "seconds": flops / (machine.processes * card.flops * config.mfu),
        "disk": {
            "checkpoint": kept.checkpoint,
            "checkpoints": kept.checkpoint * _files(config, steps, work.steps),
            "exports": export * _exports(config.export, steps),
        },
    }


def _files(config: Any, steps: int, epoch: int) -> int:
    """Most checkpoints that lie on the disk at a time."""
    kept = config.checkpoint
    if config.trainer.enable_checkpointing is False:
        return 0
    every = kept.every_n_train_steps or epoch * (kept.every_n_epochs or 1)
    written = max(1, -(-steps // every))
    # a new one is whole before an old one goes
    most = written if kept.save_top_k == -1 else min(written, kept.save_top_k + 1)
    return most + (kept.save_last is True)


def _exports(export: Any, steps: int) -> int:
    on_the_way = steps // export.every_n_steps if export.every_n_steps else 0
    return 1 + on_the_way + (export.best_k and export.best_k + 1)


def _instead(module: Any, machine: Machine, work: Workload) -> dict[str, int]:
    """The peak with each change that can lower it, by its option."""

    def peak(spread: Machine, share: int = 1) -> int:
        module.branches.clear()
        add_branches(module, spread.dtype)
        largest = MicroBatch(-(-work.largest.tokens // share), -(-work.largest.counted // share))
        found = memory(module, spread, largest, _loss(module), work.accumulation * share)
        return max(found.backward, found.step)

    def on(**changes: Any) -> Machine:
        return Machine(**{**vars(machine), **changes})

    strategy = "--trainer.strategy.init_args"
    found = {}
    if not module.gradient_checkpointing:
        module.gradient_checkpointing = True
        found["--model.gradient_checkpointing true"] = peak(machine)
        module.gradient_checkpointing = False
    found["half of data.micro_batch_size or max_tokens"] = peak(machine, 2)
    if machine.stage is not None and machine.stage < 3 and machine.processes > 1:
        found[f"{strategy}.stage 3"] = peak(on(stage=3))
    if machine.stage is not None and not machine.offload_optimizer:
        found[f"{strategy}.offload_optimizer true"] = peak(on(offload_optimizer=True))
    if "weak" in module.sources and module.train_weak:
        module.train_weak = False
        found["--model.train_weak false"] = peak(machine)
        module.train_weak = True
    return found


def _lines(plan: dict[str, Any]) -> list[str]:
    """The plan as it is read."""
    parts, disk, card = plan["memory"]["parts"], plan["disk"], plan["card"]
    hours = timedelta(seconds=round(plan["seconds"]))
    rows = [(name, _gb(size)) for name, size in parts.items() if size]
    return [
        *(
            f"{name}: {_count(size['all'])} parameters, of which {_count(size['train'])} train"
            for name, size in plan["parameters"].items()
        ),
        f"memory of each GPU (of {plan['processes']}), in a micro-batch of "
        f"{plan['largest_micro_batch']:,} tokens:",
        *(f"  {name:<46}{size}" for name, size in rows),
        f"  {'together, at the backward peak':<46}{_gb(plan['memory']['backward'])}",
        f"  {'at the optimizer step':<46}{_gb(plan['memory']['step'])}",
        f"  {card['name'] + ', of which CUDA takes about 2 GB':<46}{_gb(card['memory'])}",
        f"{plan['steps']:,} optimizer steps, {plan['tokens']:,} tokens; "
        f"{plan['flops_per_step']:.3g} FLOPs a step, {plan['flops']:.3g} in all",
        f"at {plan['mfu']:.0%} of the peak of {card['name']}: {hours} (hours:minutes:seconds), "
        "without scoring, validation and grades",
        f"disk: {_gb(disk['checkpoint']).strip()} a checkpoint, "
        f"{_gb(disk['checkpoints']).strip()} for those that are kept while one is written, "
        f"{_gb(disk['exports']).strip()} for exports",
    ]


def _gb(size: float) -> str:
    return f"{size / GB:8,.1f} GB" if size >= GB else f"{size / 1e6:8,.1f} MB"


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 1e9 else f"{number / 1e6:.2f} million"

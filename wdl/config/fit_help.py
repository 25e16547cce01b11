"""What ``wdl fit --help`` says in a line, where Lightning or jsonargparse has paragraphs.

``wdl fit --help all`` shows every option, in their words.
"""

import copy
from argparse import _ArgumentGroup
from collections.abc import Iterable, Iterator
from types import SimpleNamespace

REST = {"trainer": "Lightning's trainer", "checkpoint": "Checkpoints"}
"""Groups of which only what is in ``BRIEF`` is shown, and their titles."""
BRIEF = {
    "config": "A YAML file of options; what is given later counts. Paths in it are meant from its "
    "folder.",
    "print_config": "Print all options as YAML, and do nothing.",
    "seed_everything": "Of all that is random.",
    "model": "Another method than weak-driven training, MODULE.CLASS; its options are "
    "--model.OPTION, which --model.help MODULE.CLASS lists.",
    "data": "Other data than those of weak-driven training, in the same way.",
    "model.optimizer": "Optimizer of everything that trains, as CLASS and --model.optimizer."
    "init_args.OPTION. AdamW with lr 1e-5 if nothing is said.",
    "trainer.max_epochs": "End after so many epochs.",
    "trainer.max_steps": "End after so many optimizer steps.",
    "trainer.max_time": "End after DD:HH:MM:SS.",
    "trainer.accelerator": "cpu, gpu or auto.",
    "trainer.devices": "Processes on each node.",
    "trainer.num_nodes": "Nodes.",
    "trainer.strategy": "auto, ddp or wdl.training.deepspeed.DeepSpeed.",
    "trainer.precision": "32-true, bf16-mixed or bf16-true.",
    "trainer.gradient_clip_val": "Longest gradient.",
    "trainer.log_every_n_steps": "Optimizer steps from point to point of a curve.",
    "trainer.val_check_interval": "Validate after each such share of an epoch.",
    "trainer.check_val_every_n_epoch": "Validate after every n-th epoch.",
    "trainer.callbacks": "More of them; += adds one.",
    "trainer.logger": "Where to log besides TensorBoard.",
    "trainer.profiler": "simple, advanced or pytorch.",
    "trainer.fast_dev_run": "Try so many steps.",
    "checkpoint.every_n_train_steps": "Save after every n-th optimizer step.",
    "checkpoint.every_n_epochs": "Save after every n-th epoch.",
    "checkpoint.train_time_interval": "Save after so much time.",
    "checkpoint.save_top_k": "How many stay; -1 for all.",
    "checkpoint.monitor": "What is best, as val/loss.",
    "checkpoint.mode": "Which is best: min or max.",
}
_HIDDEN = {"weights_only", "model.help", "data.help", "model.optimizer.help"}
_CLASSES = {"model", "data", "model.optimizer"}
_TYPES = dict.fromkeys(_CLASSES, "CLASS") | {
    "config": "FILE",
    "ckpt_path": "PATH",
    "checkpoint.train_time_interval": "TIME",
    "trainer.callbacks": "CLASS",
    "trainer.logger": "CLASS",
    "trainer.strategy": "CLASS",
    "trainer.devices": "INT",
    "trainer.precision": "TEXT",
    "trainer.fast_dev_run": "INT",
    "trainer.max_time": "TIME",
    "trainer.val_check_interval": "NUMBER",
    "trainer.profiler": "TEXT",
    "trainer.gradient_clip_val": "NUMBER",
    "trainer.accelerator": "TEXT",
}


def brief(groups: Iterable[_ArgumentGroup], filled_in: Iterable[str]) -> Iterator[SimpleNamespace]:
    """Groups of options as they are shown.

    Args:
        groups: Those of a parser.
        filled_in: Names of options that others fill in.
    """
    for group in groups:
        actions = [copy.copy(action) for action in group._group_actions]
        room = actions[0].dest.partition(".")[0] if actions else ""
        if whole := REST.get(room):
            actions = [action for action in actions if action.dest in BRIEF]
        for action in actions:
            action.help = BRIEF.get(action.dest, action.help)
            action.metavar = _TYPES.get(action.dest, action.metavar)
            if action.dest in _CLASSES:
                action.default = None
            if whole:
                action.option_strings = action.option_strings[:1]
        rest = f"{whole}; wdl fit --help all has the rest" if whole else None
        yield SimpleNamespace(
            title="Going on" if room == "ckpt_path" else rest or group.title,
            description=group.description,
            _group_actions=[a for a in actions if a.dest not in _HIDDEN.union(filled_in)],
        )

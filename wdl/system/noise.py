"""What libraries say that a user can do nothing about."""

import logging
import os
import warnings

import torch


def quieten() -> None:
    """Drop what libraries say that is settled by design or nothing a user could act on."""
    for message in (
        ".*does not have many workers.*",  # encoded samples are read from memory maps
        ".*`IterableDataset` has `__len__` defined.*",  # there are no loading workers
        ".*dataloader is not resumable.*",  # the plan resumes by the count of optimizer steps
        ".*LightningCLI's args parameter.*",
        ".*LeafSpec.* is deprecated.*",
        ".*`torch.distributed.* is deprecated.*",
        ".*dirpath has changed.*",  # each start has a folder of its own
        ".*sync_dist=True.*",  # what is logged has been summed over all processes
    ):
        warnings.filterwarnings("ignore", message)
    # checkpoints are checked before they are opened
    settled = (
        "litlogger",
        "`weights_only` was not set",
        "to estimate number of stepping batches",
        "already configured with model summary",
    )
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(
            lambda record: not any(text in record.getMessage() for text in settled)
        )
    name_accelerator()


def name_accelerator() -> None:
    """Or DeepSpeed, which transformers imports to save a model, warns that it had to guess."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")

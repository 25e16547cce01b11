"""Vision towers that do not train: no checkpoint holds them, and all refer to where they are."""

from collections.abc import Mapping

import lightning.pytorch as pl

from wdl.branches.reading import vision_weights
from wdl.branches.sources import load_config, reads_images
from wdl.config.paths import ModelSource
from wdl.data.scoring import branch_digest
from wdl.errors import UserError
from wdl.system.digests import value_digest
from wdl.system.types import PreTrainedModel


class FrozenVision:
    """What makes hidden states of pictures in the branches that otherwise train.

    Args:
        keeps: Whether it does not train; if it does, nothing here does anything.

    Attributes:
        names: Of the weights.
        made: Where the strong branch's come from, and the hash of that model.
        agreed: What a run must agree in that goes on.
    """

    def __init__(self, keeps: bool) -> None:
        self.keeps = keeps
        self.names: set[str] = set()
        self.made: dict[str, str] = {}
        self.agreed: dict[str, str] = {}

    def add(self, branch: PreTrainedModel, prefix: str) -> None:
        """Freeze those of a branch, whose names have a prefix in the module."""
        own = vision_weights(branch) if self.keeps else set()
        for name, weight in branch.named_parameters():
            if name in own:
                weight.requires_grad_(False)
        self.names |= {f"{prefix}{name}" for name in own}

    def hash(
        self, sources: Mapping[str, ModelSource], pretrained: bool, trainer: pl.Trainer
    ) -> None:
        """Hash the models that they come from; every process must call this.

        Raises:
            UserError: They come from none.
        """
        if not self.keeps or not reads_images(load_config(sources["strong"])):
            return
        if not pretrained:
            raise UserError(
                "model.train_vision: a vision tower that begins at random must train; set it to "
                "true, or model.pretrained to true"
            )
        digests = [branch_digest(source, trainer) for source in sources.values()]
        self.made = {"vision": str(sources["strong"]), "vision_sha256": digests[0]}
        self.agreed = {"vision_sha256": value_digest(digests)}

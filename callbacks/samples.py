"""Some samples with their pictures in TensorBoard, as the model is shown them."""

import re

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger

from wdl.branches.vision import open_image
from wdl.data.corpus import rows_at
from wdl.data.planned import PlannedDataModule

SHOWN = 8


class PictureSamples(pl.Callback):
    """Logs the first samples of data with pictures: ``samples/IDX`` and ``samples/IDX/N``."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """At the start, so that a wrong template or a wrong order is seen before the end."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, PlannedDataModule)
        corpus, logger = data.corpus, trainer.logger
        if corpus.vision is None or not isinstance(logger, TensorBoardLogger):
            return
        mark = re.escape(str(corpus.tokenizer.convert_ids_to_tokens(corpus.vision.image_token)))
        for row in rows_at(corpus.encoded, range(min(SHOWN, len(corpus.encoded)))):
            # as many of them as a picture has tokens say no more than one
            text = re.sub(f"({mark})+", r"\1", str(corpus.tokenizer.decode(row["input_ids"])))
            shown = text.replace("\n", "\n    ")
            logger.experiment.add_text(f"samples/{row['idx']}", f"    {shown}", trainer.global_step)
            for number, file in enumerate(row["images"], start=1):
                pixels = np.asarray(open_image(file))
                logger.experiment.add_image(
                    f"samples/{row['idx']}/{number}", pixels, trainer.global_step, dataformats="HWC"
                )

"""A branch without its weights: what it is made of, from its configuration alone."""

import torch

from wdl.branches.lora import Lora, add_adapter
from wdl.branches.sources import load_config, model_class
from wdl.system.types import PreTrainedModel


def skeleton(source: str, lora: Lora | None = None) -> PreTrainedModel:
    """The model of a folder or hub name on the ``meta`` device, in a fraction of a second.

    Args:
        source: Its ``config.json`` is all that is read.
        lora: The adapter that it gets.

    Raises:
        UserError: There is no configuration that can be read, or the adapter does not fit.
    """
    config = load_config(source)
    with torch.device("meta"):
        model: PreTrainedModel = model_class(config).from_config(config)
        if lora is not None:
            add_adapter(model, lora)
    return model

"""Lightning without what it imports for the sake of others, so that help and complaints come fast.

torchmetrics, which comes with it, imports transformers and matplotlib for BERTScore and for plots.
Who needs them imports them all the same, later: ``from torchmetrics.text.bert import BERTScore``.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_EXTRAS = ("transformers", "matplotlib")


@contextmanager
def without_extras() -> Iterator[None]:
    """What is imported meanwhile, Lightning for the first time, does without them where it can."""
    if "lightning" in sys.modules:
        yield
        return
    from lightning_utilities.core.imports import RequirementCache

    is_there = RequirementCache.__bool__

    def is_wanted(requirement: RequirementCache) -> bool:
        return not str(requirement.requirement).startswith(_EXTRAS) and is_there(requirement)

    RequirementCache.__bool__ = is_wanted  # type: ignore[method-assign,assignment]
    gc.disable()  # it would go through all modules again and again, for a third of the time
    try:
        yield
    finally:
        gc.freeze()  # what is imported stays
        gc.enable()
        RequirementCache.__bool__ = is_there  # type: ignore[method-assign]

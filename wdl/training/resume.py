"""Where a resumed fit stands: the counts of Lightning's loops, as this run counts.

The plan goes by optimizer steps, and so does a resume; Lightning goes by micro-batches and epochs.
"""

from typing import Any


def adapt_progress(loops: dict[str, Any], accumulation_before: int, accumulation: int) -> None:
    """Rewrite the counts that a checkpoint holds.

    Another number of processes, or another micro-batch size, makes other micro-batches of the same
    optimizer steps. Where ``trainer.max_steps`` ended a run within an epoch, Lightning would take
    it for a whole one; at its end, it would go through it again without a batch.

    Args:
        loops: State of Lightning's fit loop; changed in place.
        accumulation_before: Micro-batches of a step on each process when it was written.
        accumulation: Now.
    """
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    for counts in (batches["total"], batches["current"]):
        open_ones = counts["ready"] - counts["completed"]  # one, while its hooks run
        begun = counts["ready"] // accumulation_before * accumulation
        counts.update(ready=begun, started=begun, processed=begun, completed=begun - open_ones)
    if epochs["current"]["processed"] < epochs["current"]["ready"]:
        return  # saved within an epoch
    whole = batches["is_last_batch"]
    for counts in (epochs["total"], epochs["current"]):
        over = counts["ready"] if whole else counts["ready"] - 1
        counts.update(processed=over, completed=over)
    if whole:
        batches["current"].update(ready=0, started=0, processed=0, completed=0)
        batches["is_last_batch"] = False

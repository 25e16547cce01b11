"""From rows to the micro-batches of every rank."""

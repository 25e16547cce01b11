"""Values that several packages must agree on; each has its only home here."""

IGNORE_INDEX = -100
"""Label of a position that the loss does not count (the value torch and transformers use)."""

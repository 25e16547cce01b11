"""Values that several packages must agree on; each has its only home here."""

IGNORE_INDEX = -100
"""Label of a position that the loss does not count (the value torch and transformers use)."""

PAPER_SYSTEM_PROMPT = (
    "You are a helpful assistant. To answer the user’s question, you first think about the "
    "reasoning process and then provide the user with the answer. The reasoning process and "
    "answer are enclosed within <think> and <answer> tags, respectively, i.e., <think> reasoning "
    "process here </think> <answer> answer here </answer>."
)
"""What the paper's models are trained and evaluated with."""

"""Models behind servers that speak OpenAI's interface: how they are reached, asked and paid."""

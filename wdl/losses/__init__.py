"""Losses and statistics of logits that are never materialised; tensors in, tensors out."""

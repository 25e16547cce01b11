"""The embedded default: a tiny model and its data, made from nothing but code."""

"""Branches: language models of transformers, loaded, adapted and packed one way."""

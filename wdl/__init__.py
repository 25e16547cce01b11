"""wdl: weak-driven post-training of language models with PyTorch Lightning."""

__version__ = "0.1.0"

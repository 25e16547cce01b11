"""Engines that answer questions, and the protocols by which they are asked."""

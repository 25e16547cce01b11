"""Metrics of training and of graded answers."""

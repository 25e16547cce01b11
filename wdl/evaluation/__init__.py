"""Evaluation: benchmarks, prompts, engines, grading, reports."""

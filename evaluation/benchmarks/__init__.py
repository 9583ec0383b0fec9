"""Benchmark items, their prompts, and stored predictions."""

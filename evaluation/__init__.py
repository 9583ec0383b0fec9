"""Benchmarks, prompts, parsers, scorers, statistics and the runner; works without a Trainer."""

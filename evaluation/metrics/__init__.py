"""Benchmark metrics and their baselines."""

"""The tables of `experiments.run --dry-run`."""

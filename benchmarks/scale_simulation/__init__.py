"""Costs of one rank in runs of up to 1,024 ranks, measured without them."""

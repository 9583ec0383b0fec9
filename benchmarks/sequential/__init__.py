"""Simulated sequential grids with known truth."""

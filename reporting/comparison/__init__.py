"""Comparison of finished grids or cells side by side."""

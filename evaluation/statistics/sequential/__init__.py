"""Sequential grids: which cell to train next, and when the registered claims are decided."""

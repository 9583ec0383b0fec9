"""Sequential grids: their claims as contrasts, the measured cells, and the journal of a run."""

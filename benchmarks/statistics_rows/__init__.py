"""Groups of rows of the simulation of the statistics."""

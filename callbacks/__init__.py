"""Observers of a run: they watch and save, and never change a number."""

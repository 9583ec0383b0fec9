"""Registered hypotheses, their cells and their decisions."""

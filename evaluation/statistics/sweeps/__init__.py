"""Sweeps over shares of the target language: which shares suffice, and the curve through them."""

"""Writes the folder of a new language from what Unicode CLDR knows about it, and checks it."""

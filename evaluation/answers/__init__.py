"""Rules for normalising and comparing answers, per language."""

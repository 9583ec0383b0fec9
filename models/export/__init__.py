"""Conversion to stock model classes of transformers."""

"""Equality of every ready-made class with its own forward pass and its exports, measured."""

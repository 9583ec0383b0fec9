"""Writes WebDataset shards."""

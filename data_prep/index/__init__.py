"""Builds manifests and indexes for existing WebDataset shards."""

"""Builder of manifests and indexes for existing WebDataset shards."""

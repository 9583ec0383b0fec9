"""Writing WebDataset shards with their indexes and manifests."""

"""Reading indexed WebDataset shards."""

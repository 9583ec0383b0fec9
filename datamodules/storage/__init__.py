"""Access to local and remote shards, with a bounded cache."""

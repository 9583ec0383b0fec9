"""Offline commands that create shards, manifests and indexes."""

"""Offline commands that make shards, manifests and indexes."""

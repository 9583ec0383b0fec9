"""Preparation of a language's data: from published rows to translated and checked shards."""

"""Data of a language at any size: rows of published sets to translated, checked shards."""

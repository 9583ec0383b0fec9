"""Conversation files of other programs: their columns, and their conversion to shards."""

"""Batch planning, encoding and collation of training steps."""

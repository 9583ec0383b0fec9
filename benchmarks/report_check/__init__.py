"""Recomputation of a finished report from its data, without code of the report."""

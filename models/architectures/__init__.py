"""Connectors by name: one module per architecture (see `models.connector`)."""

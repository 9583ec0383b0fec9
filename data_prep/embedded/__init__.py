"""Builds the data of the embedded profile from public packages."""

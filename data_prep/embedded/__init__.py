"""Generator of the embedded profile's data from public packages."""

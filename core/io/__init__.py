"""Files, endpoints and hub access."""

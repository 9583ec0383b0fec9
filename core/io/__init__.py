"""Files, endpoints and access to the Hugging Face hub."""

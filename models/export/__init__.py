"""Conversion to stock Hugging Face LLaVA format."""

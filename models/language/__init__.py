"""Language models: loading, adapters, attention, generation."""

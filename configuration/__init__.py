"""Configuration of a run: what users write in YAML and `--set`, checked before anything starts."""

"""Configuration, samples, chat format, random streams, errors and files; the lowest layer."""

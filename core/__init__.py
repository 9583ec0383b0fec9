"""The leaf of the house: configuration, samples, chat format, randomness, errors, files."""

"""Claims about recipes: variance between trainings, decisions, and power before training."""

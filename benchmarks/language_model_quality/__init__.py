"""Knowledge of language models per language, against levels defined by published figures."""

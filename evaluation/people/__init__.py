"""People as judges: blind comparisons of two models, and validation of translated items."""

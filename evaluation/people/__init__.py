"""Human annotation: blind comparisons of two models, and review of translated items."""

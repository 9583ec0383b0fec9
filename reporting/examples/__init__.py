"""Single questions and replies: a random sample, and errors by type."""

"""Models that answer benchmark questions: local, Hugging Face, or served."""

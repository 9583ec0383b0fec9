"""Ready-made vision-language models of transformers, trained and asked as they are."""

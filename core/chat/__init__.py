"""Chat templates and the conversion of conversations to token ids."""

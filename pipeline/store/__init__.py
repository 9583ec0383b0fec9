"""The store of stage runs on disk and the rules for retrying failed ones."""

"""Vision towers and image transforms."""

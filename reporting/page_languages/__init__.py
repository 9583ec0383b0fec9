"""Pages in languages other than English: one strings file each, applied to a finished page."""

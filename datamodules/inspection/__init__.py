"""Views of the training stream for people."""

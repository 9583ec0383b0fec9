"""The chat page and its web server."""

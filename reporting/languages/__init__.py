"""Report about several target languages, each of which has a grid of its own."""

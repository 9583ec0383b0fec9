"""Stage kinds, one file each, and the graph of stage runs."""

"""Pure torch modules and their configurations: no Lightning, no data, no input or output policy."""

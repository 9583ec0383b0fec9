"""Commands, logging, process groups and stop signals."""

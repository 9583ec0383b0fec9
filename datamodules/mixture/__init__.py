"""The mixture stream: configuration, schedule and order of samples."""

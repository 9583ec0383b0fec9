"""The composition root: configurations, the stage graph, the commands."""

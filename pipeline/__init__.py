"""The engine: stages, their graph, the store of results, and the launchers."""

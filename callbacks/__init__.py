"""Callbacks that monitor and save a training run; none of them changes its result."""

"""What Lightning needs of a training stage: the step, the optimiser, the strategy."""

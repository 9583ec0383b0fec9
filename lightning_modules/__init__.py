"""What Lightning needs of a training stage: the step, the optimizer, the strategy."""

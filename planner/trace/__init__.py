"""Peak memory of a training step, traced on fake tensors without a GPU."""

"""Steps of the command `experiments.run`: plan, explain, register, describe and launch a grid."""

"""Parameter, memory and FLOP counts of models without weights."""

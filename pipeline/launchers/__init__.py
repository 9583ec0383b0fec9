"""Launchers that run the stage graph: local processes, SLURM jobs, torchrun ranks."""

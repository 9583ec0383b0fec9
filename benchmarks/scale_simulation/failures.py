"""Goodput under random failures, with the checkpoint interval that the callbacks choose."""

import numpy as np

from callbacks.checkpoint_interval import best_interval_s

LLAMA_3_GPU_HOURS = 54 * 24 * 16_384 / 419
"""GPU hours per unexpected interruption in the training of Llama 3 405B (arXiv 2407.21783)."""
SPOT_HOURS = (1.0, 3.0, 8.0)
"""Hours between two preemptions of a whole run on preemptible nodes, without warning."""
RESTART_S = 300.0
"""Assumed: the scheduler, imports, weights, and the first step."""
COPY_BYTES_PER_S = 10e9
"""Assumed rate at which a rank copies its state to main memory while training waits."""
_DAYS = 60.0


def goodput(save_s: float, failure_hours: float, *, seed: int = 0) -> float:
    """Return the fraction of time spent on steps that are kept, simulated for 60 days.

    Failures arrive at random (exponential). Work since the last complete checkpoint is repeated,
    and a restart costs `RESTART_S`, in which failures can occur as well.
    """
    rng = np.random.default_rng(seed)
    failure_s = failure_hours * 3600
    interval = best_interval_s(save_s, failure_s)
    total = _DAYS * 24 * 3600
    now, kept, next_failure = 0.0, 0.0, rng.exponential(failure_s)
    is_restarting = False
    while now < total:
        duration = RESTART_S if is_restarting else interval + save_s
        if now + duration <= next_failure:
            now += duration
            kept += 0.0 if is_restarting else interval
            is_restarting = False
        else:
            now = next_failure
            next_failure = now + rng.exponential(failure_s)
            is_restarting = True
    return kept / now

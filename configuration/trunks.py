"""Trunks: trainings at a constant rate, from whose checkpoints stages of any length continue.

A stage of T steps with a warm-up, a constant rate and a decay (`OptimConfig.decay_fraction`) equals
the trunk until its rate decreases. It therefore continues from the checkpoint of that step.
"""

from collections.abc import Iterable, Sequence

from configuration.mixture_lines import MixtureLineConfig
from core.errors import ConfigError
from lightning_modules.optim import OptimConfig, first_decay_step


def check_trunk(
    branch_points: Sequence[int],
    optim: OptimConfig,
    num_steps: int,
    lines: Iterable[MixtureLineConfig],
) -> None:
    """Check that a stage equals its trunk until it leaves it.

    Args:
        branch_points: Steps at which the trunk is saved.
        optim: Optimizer and schedule of the stage.
        num_steps: Optimizer steps of the stage.
        lines: Mixture lines of the stage.

    Raises:
        ConfigError: If the points are not ascending, the stage does not leave the trunk at one of
            them, or its schedule or data depend on its number of steps before.
    """
    if list(branch_points) != sorted({*branch_points}) or branch_points[0] < 1:
        raise ConfigError(f"branch_points={list(branch_points)}: list steps from 1 on, ascending")
    if optim.warmup_steps is None or not optim.decay_fraction:
        raise ConfigError(
            "branch_points need optim.warmup_steps, and an optim.decay_fraction above 0: with "
            f"warmup_steps={optim.warmup_steps} and decay_fraction={optim.decay_fraction}, stages "
            "of different lengths have different learning rates from the first steps on"
        )
    start = first_decay_step(optim, num_steps)
    if start not in branch_points:
        raise ConfigError(
            f"num_steps={num_steps} with optim.decay_fraction={optim.decay_fraction:g} leaves the "
            f"trunk at step {start}, which is not in branch_points={list(branch_points)}; add it"
        )
    if optim.warmup_steps > branch_points[0]:
        raise ConfigError(
            f"optim.warmup_steps={optim.warmup_steps} ends after the first of "
            f"branch_points={list(branch_points)}; shorten the warm-up"
        )
    if any(line.phases for line in lines):
        raise ConfigError(
            "branch_points are not supported for mixtures with phases, which may depend on the "
            "number of steps; remove one of them"
        )

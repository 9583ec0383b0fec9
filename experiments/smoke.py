"""Does everything work here: one small cell through both stages, evaluation and report."""

import dataclasses

from experiments.axes import vary
from experiments.schema import RunConfig, TrainConfig

_STEPS = 10


def cells(base: RunConfig) -> list[RunConfig]:
    """One cell with few steps; its numbers mean nothing, its files are all there."""
    short = dataclasses.replace(base, align=_shorten(base.align), instruct=_shorten(base.instruct))
    return vary(short, target_share=(0.4,), text_only=(True,))


def _shorten(stage: TrainConfig) -> TrainConfig:
    return dataclasses.replace(stage, num_steps=min(_STEPS, stage.num_steps))

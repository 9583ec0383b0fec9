"""Does everything work on this machine? One small cell through all stages and the report."""

import dataclasses
from collections.abc import Mapping

from configuration.axes import vary
from configuration.mixture_lines import MixtureLineConfig
from configuration.run_config import RunConfig, TrainConfig
from evaluation.retention import RetentionConfig

note = "These scores are meaningless: the cell was trained for a few steps, to try every stage."
_STEPS = 10


def cells(base: RunConfig) -> list[RunConfig]:
    """Return one cell with few steps: it writes every file, but its scores are meaningless."""
    replaced = base.data.sources
    smaller = {name: new for name, new in base.data.smoke_sources.items() if name not in replaced}
    align, instruct = (_shorten(stage, smaller) for stage in (base.align, base.instruct))
    short = dataclasses.replace(base, align=align, instruct=instruct, retention=RetentionConfig())
    return vary(short, target_share=(0.4,), text_only=(True,))


def _shorten(stage: TrainConfig, smaller: Mapping[str, str]) -> TrainConfig:
    visual = {name: _replace(line, smaller) for name, line in stage.visual.items()}
    text_only = {name: _replace(line, smaller) for name, line in stage.text_only.items()}
    num_steps = min(_STEPS, stage.num_steps)
    return dataclasses.replace(stage, num_steps=num_steps, visual=visual, text_only=text_only)


def _replace(line: MixtureLineConfig, smaller: Mapping[str, str]) -> MixtureLineConfig:
    return dataclasses.replace(line, source=smaller.get(line.source, line.source))

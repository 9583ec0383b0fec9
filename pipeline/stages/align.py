"""Stage kind `align`: stage 1, which trains the connector."""

import dataclasses
from typing import ClassVar, Self

from configuration.run_config import RunConfig, Stages
from pipeline.stages.training import TrainingStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignStage(TrainingStage):
    """Alignment of the connector; its target share is fixed, so a backbone has one."""

    kind: ClassVar[str] = "align"
    upstream: ClassVar[tuple[str, ...]] = ("features", "align_trunk")

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Return stage 1 of a cell."""
        if config.cell.stages is Stages.INSTRUCT_ONLY:
            return None
        return cls.from_train_config(config, config.align, policy=config.align_policy, text_only={})

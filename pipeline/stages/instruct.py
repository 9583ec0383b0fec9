"""Stage kind `instruct`: stage 2, which trains the connector and the language model."""

import dataclasses
from typing import ClassVar, Self

from configuration.run_config import RunConfig, Stages
from pipeline.stages.training import TrainingStage


@dataclasses.dataclass(frozen=True, kw_only=True)
class InstructStage(TrainingStage):
    """Instruction tuning; the target share and the text-only data of a cell apply here."""

    kind: ClassVar[str] = "instruct"
    upstream: ClassVar[tuple[str, ...]] = ("features", "align", "instruct_trunk")

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Return stage 2 of a cell."""
        if config.cell.stages is Stages.ALIGN_ONLY:
            return None
        stage = config.instruct
        text_only = stage.text_only if config.cell.text_only else {}
        policy = config.instruct_policy
        return cls.from_train_config(config, stage, policy=policy, text_only=text_only)

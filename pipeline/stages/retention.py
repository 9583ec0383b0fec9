"""Stage kinds `backbone` and `retention`: the language model on tasks without images.

The scores before any training (`backbone`) and after stage 2 (`retention`) show what the language
model forgot.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import ClassVar, Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configuration.run_config import INSTRUCT_POLICY, RunConfig, Stages
from configuration.source_places import manifest_path
from configuration.vlm_spec import VlmSpec
from core.chat.format import load_tokenizer
from core.config import ABSENT_IF_NONE
from evaluation.retention import (
    TEXT_PREFIX,
    RetentionConfig,
    ScoreCache,
    harness_version,
    run_retention,
    save_retention,
)
from models.connector import ConnectorConfig
from models.freezing import FreezePolicy, cast_all
from models.language.adapters import TuningConfig
from models.language.language_model import load_language_model
from models.ready_made.loading import load_chat, load_ready_made
from pipeline.assemble_trained import assemble_trained
from pipeline.device import compute_device
from pipeline.stages.base import InputRole, Stage, StageContext
from pipeline.stages.evaluate import report_progress
from pipeline.stages.training import cached_features
from pipeline.store.store import PARTIAL_RESULTS
from planner.estimator import Estimator, StageEstimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionBaselineStage(Stage):
    """The language model as it is before training."""

    kind: ClassVar[str] = "backbone"
    recipe_version: ClassVar[int] = 2

    model: VlmSpec
    texts: dict[str, str]
    """Task over the running text of a source -> its manifest."""
    settings: RetentionConfig
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    """How the last training stage trained the language model."""
    policy: FreezePolicy | None = dataclasses.field(default=None, metadata=ABSENT_IF_NONE)
    """Parts that the last training stage of a ready-made model trained; None for composed ones."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Score the backbone of a cell."""
        if not config.retention.tasks:
            return None
        # Only the language model is scored: cells of all architectures share the stage run.
        plain = dataclasses.replace(config.model, connector=ConnectorConfig())
        return cls._from_tuning(dataclasses.replace(config, model=plain), TuningConfig())

    @classmethod
    def _from_tuning(cls, config: RunConfig, tuning: TuningConfig) -> Self:
        texts = {
            task: manifest_path(config, task.removeprefix(TEXT_PREFIX))
            for task in config.retention.tasks
            if task.startswith(TEXT_PREFIX)
        }
        return cls(
            model=VlmSpec.from_config(config),
            texts=texts,
            settings=config.retention,
            tuning=tuning,
        )

    @property
    def manifests(self) -> tuple[str, ...]:
        """Manifests of the text sources."""
        return tuple(sorted(self.texts.values()))

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Folders of the pretrained parts."""
        return self.model.weight_folders

    @property
    def definitions(self) -> Mapping[str, object]:
        """The version of the harness, which determines the prompts and documents of its tasks."""
        tasks = set(self.settings.tasks) - self.texts.keys()
        return {"lm-eval": harness_version()} if tasks else {}

    def estimate(self, estimator: Estimator, *, has_tower: bool, count: int) -> StageEstimate:
        """Estimate the scoring of all tasks on one GPU."""
        del has_tower, count
        return estimator.retention(self)

    def run(self, context: StageContext) -> None:
        """Score the pretrained language model."""
        dtype = self.settings.weights.dtype
        device = compute_device(context.trainer.accelerator)
        if (source := self.model.ready_made) is not None:
            model = load_ready_made(source, dtype=dtype, device=device)
            self._score(context, model.stock, load_chat(source).tokenizer)
            return
        path = self.model.language_model
        tokenizer = load_tokenizer(path.path, revision=path.revision)
        language_model = load_language_model(path, dtype=dtype, device=device)
        self._score(context, language_model, tokenizer)

    def _score(
        self,
        context: StageContext,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        language_model.eval().to(compute_device(context.trainer.accelerator))
        on_task = partial(report_progress, context, "tasks")
        scores = run_retention(
            language_model,
            tokenizer,
            self.settings,
            texts=self.texts,
            folder=context.folder.scratch,
            cache=ScoreCache(context.folder.checkpoints / PARTIAL_RESULTS, on_task),
        )
        save_retention(scores, context.folder.scratch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionStage(RetentionBaselineStage):
    """The language model after stage 2."""

    kind: ClassVar[str] = "retention"
    upstream: ClassVar[tuple[str, ...]] = ("features", "instruct")

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Score the trained language model of a cell."""
        if not config.retention.tasks or config.cell.stages is Stages.ALIGN_ONLY:
            return None
        stage = cls._from_tuning(config, config.instruct.tuning)
        if not config.model.is_ready_made:
            return stage
        return dataclasses.replace(stage, policy=config.instruct_policy)

    @property
    def definitions(self) -> Mapping[str, object]:
        """The version of the harness and the chat template, whose tokens are in the vocabulary."""
        return {**super().definitions, **self.model.definitions}

    def run(self, context: StageContext) -> None:
        """Score the language model that stage 2 trained."""
        dtype = self.settings.weights.dtype
        parts = assemble_trained(
            self.model,
            features=cached_features(context),
            tuning=self.tuning,
            policy=self.policy or INSTRUCT_POLICY,
            dtype=dtype,
            device=compute_device(context.trainer.accelerator),
            trained=[context.inputs[InputRole.INSTRUCT]],
        )
        if dtype is not torch.float32:
            cast_all(parts.model, dtype)
        self._score(context, parts.model.language_model, parts.chat.tokenizer)

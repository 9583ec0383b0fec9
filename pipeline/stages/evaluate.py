"""Stage kind `evaluate`: the benchmarks in both languages."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Self

import torch

from callbacks.metrics_log import write_progress
from configuration.mixture import benchmark_manifests
from configuration.run_config import EvaluateConfig, RunConfig, Stages
from configuration.vlm_spec import VlmSpec
from core.errors import PreemptedError
from core.process.log import get_logger
from core.process.machine import available_cores
from evaluation.answerers.cached import CachedAnswerer
from evaluation.benchmarks.items import load_benchmarks
from evaluation.canaries import run_canaries
from evaluation.language_content import language_content
from evaluation.runner import EvaluationOptions, evaluate
from models.freezing import FreezePolicy, cast_all
from models.language.adapters import TuningConfig
from pipeline.answerers import make_answerer
from pipeline.assemble_trained import ModelParts, assemble_trained
from pipeline.device import compute_device
from pipeline.stages.base import InputRole, NodeT, Stage, StageContext
from pipeline.stages.training import cached_features, initial_weights
from pipeline.store.store import PARTIAL_RESULTS
from planner.estimator import Estimator, StageEstimate

_LOG = get_logger("evaluate")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateStage(Stage):
    """One evaluation of one trained model."""

    kind: ClassVar[str] = "evaluate"
    recipe_version: ClassVar[int] = 3
    upstream: ClassVar[tuple[str, ...]] = ("features", "align", "instruct")
    memory_fix: ClassVar[str] = "set evaluate.weights=bfloat16, or reduce evaluate.batch_size"

    model: VlmSpec
    benchmarks: tuple[str, ...]
    """Manifests of the benchmarks, the main one first."""
    languages: tuple[str, ...]
    settings: EvaluateConfig
    policy: FreezePolicy
    """What the last training stage trained."""
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    """How it trained the language model, which determines what its weights file contains."""

    @classmethod
    def from_config(cls, config: RunConfig) -> Self | None:
        """Evaluate the last training stage of a cell."""
        return cls.of_benchmarks(config, benchmark_manifests(config))

    @classmethod
    def of_benchmarks(cls, config: RunConfig, benchmarks: tuple[str, ...]) -> Self:
        """Evaluate the last training stage of a cell on some benchmarks."""
        is_aligned_only = config.cell.stages is Stages.ALIGN_ONLY
        last_stage = config.align if is_aligned_only else config.instruct
        return cls(
            model=VlmSpec.from_config(config),
            benchmarks=benchmarks,
            languages=(config.languages.base, config.languages.target),
            settings=config.evaluate,
            policy=config.align_policy if is_aligned_only else config.instruct_policy,
            tuning=last_stage.tuning,
        )

    @classmethod
    def choose_inputs(cls, available: Mapping[str, NodeT]) -> dict[str, NodeT]:
        """Choose the last training stage: its weights include what earlier stages trained."""
        return choose_last_training(available)

    @property
    def manifests(self) -> tuple[str, ...]:
        """Manifests of the benchmarks."""
        return self.benchmarks

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Folders of the pretrained parts."""
        return self.model.weight_folders

    @property
    def definitions(self) -> Mapping[str, object]:
        """The chat template, and the prompts, words and answer rules of the languages."""
        language_files = language_content(
            self.languages, self.settings.prompt_style, wordings=self.settings.wordings
        )
        return {**self.model.definitions, **language_files}

    def estimate(self, estimator: Estimator, *, has_tower: bool, count: int) -> StageEstimate:
        """Estimate the generation of all replies on one GPU."""
        del count
        return estimator.evaluation(self, has_tower=has_tower)

    def run(self, context: StageContext) -> None:
        """Ask the trained model every question of the benchmarks."""
        parts = self._load_model(context)
        # A GPU would wait for images to be decoded; on a CPU, threads would slow each other down.
        is_waiting = parts.features is None and parts.model.device.type != "cpu"
        together, alone = (
            make_answerer(
                parts,
                batch_size=batch_size,
                limits=self.settings.limits,
                num_threads=available_cores() if is_waiting else 0,
            )
            for batch_size in (self.settings.batch_size, 1)
        )
        items = load_benchmarks(map(Path, self.benchmarks), languages=self.languages)
        answerer = CachedAnswerer(
            together,
            context.folder.checkpoints / PARTIAL_RESULTS,
            slice_size=together.slice_size,
            on_slice=partial(report_progress, context, "questions"),
            prefetch=together.prefetch,
        )
        options = EvaluationOptions.from_config(
            self.settings,
            blind=self.settings.blind,
            guided_choice=self.settings.guided_choice,
            wordings=self.settings.wordings,
        )
        rater = together if self.settings.likelihood else None
        folder = context.folder.scratch
        result = evaluate(answerer, items, options, output_folder=folder, rater=rater)
        checks = run_canaries(answerer, alone, items, result, options)
        checks.save(context.folder.scratch)
        if checks.num_changed:
            _LOG.warning(
                "%d of %d answers change with the batch size (a tie decided by rounding, or a bug)",
                *(checks.num_changed, checks.num_alone),
            )

    def _load_model(self, context: StageContext) -> ModelParts:
        dtype = self.settings.weights.dtype
        device = compute_device(context.trainer.accelerator)
        parts = assemble_trained(
            self.model,
            features=cached_features(context),
            tuning=self.tuning,
            policy=self.policy,
            dtype=dtype,
            device=device,
            trained=initial_weights(context),
        )
        if dtype is not torch.float32:
            cast_all(parts.model, dtype)
        parts.model.eval().to(device)  # 4-bit weights are loaded on the CPU
        return parts


def choose_last_training(available: Mapping[str, NodeT]) -> dict[str, NodeT]:
    """Choose the features and the last training stage among the stages of a cell."""
    roles = [
        InputRole.FEATURES,
        InputRole.INSTRUCT if InputRole.INSTRUCT in available else InputRole.ALIGN,
    ]
    return {role.value: available[role] for role in roles if role in available}


def report_progress(context: StageContext, unit: str, done: int, total: int) -> None:
    """Write progress.json after a slice of work that is safe on disk.

    Raises:
        PreemptedError: If the stage run should stop.
    """
    write_progress(context.folder.path, step=done, total=total, metrics={})
    if context.flag.is_set:
        raise PreemptedError(f"stopped after {done} of {total} {unit}; their results are saved")

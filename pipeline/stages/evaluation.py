"""Stage runs that ask a trained model, and train nothing."""

import logging
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from callbacks.metrics_log import write_progress
from configuration.run_config import EvaluationWeights
from core.chat.format import load_tokenizer
from core.errors import PreemptedError
from evaluation.answerers.cached import CachedAnswerer
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.benchmarks.items import load_benchmark
from evaluation.canaries import run_canaries
from evaluation.retention import ScoreCache, run_retention, save_retention
from evaluation.runner import EvaluationOptions, evaluate
from models.freezing import cast_all
from models.language.adapters import tune
from models.language.language_model import load_language_model
from pipeline.launchers.devices import compute_device
from pipeline.stages.builders import build_vlm
from pipeline.stages.specs import EvaluateSpec, RetentionSpec
from pipeline.stages.training import (
    WEIGHTS,
    StageContext,
    before_tuning,
    feature_folder,
    load_parts,
)
from pipeline.store.store import KEPT

_LOG = logging.getLogger("irudimen.stages")


def run_evaluate(spec: EvaluateSpec, context: StageContext) -> None:
    """Ask the trained model every question of the benchmark."""
    is_half = spec.settings.weights is EvaluationWeights.BFLOAT16
    dtype = torch.bfloat16 if is_half else torch.float32
    parts = build_vlm(
        spec.model,
        cache=feature_folder(context),
        seed=0,
        dtype=before_tuning(dtype, spec.tuning.kind),
    )
    learned = "instruct" in context.inputs
    tune(parts.model.language_model, spec.tuning, seed=0, learns=learned)
    for role in ("align", "instruct"):
        if role in context.inputs:
            load_parts(parts.model, context.inputs[role] / WEIGHTS)
    if is_half:
        cast_all(parts.model, torch.bfloat16)
    model = parts.model.eval().to(compute_device(context.trainer.accelerator))
    together, alone = (
        VlmAnswerer(
            model,
            parts.chat,
            parts.images,
            max_new_tokens=spec.settings.max_new_tokens,
            batch_size=batch_size,
        )
        for batch_size in (spec.settings.batch_size, 1)
    )
    items = load_benchmark(Path(spec.manifest), languages=spec.languages)
    answerer = CachedAnswerer(
        together,
        context.folder.checkpoints / KEPT,
        slice_size=together.slice_size,
        on_slice=partial(_on_part, context, "questions"),
    )
    options = EvaluationOptions(blind=spec.settings.blind)
    result = evaluate(answerer, items, options, output_folder=context.folder.scratch)
    checks = run_canaries(answerer, alone, items, result, options)
    checks.save(context.folder.scratch)
    if checks.num_changed:
        _LOG.warning(
            "%d of %d answers change with the batch size (float rounding decides a tie, or a bug)",
            *(checks.num_changed, checks.num_alone),
        )


def _on_part(context: StageContext, what: str, done: int, total: int) -> None:
    write_progress(context.folder.path, step=done, total=total, metrics={})
    if context.flag.is_set:
        raise PreemptedError(f"stopped after {done} of {total} {what}; what they gave is kept")


def run_backbone(spec: RetentionSpec, context: StageContext) -> None:
    """Score the language model before it saw an image."""
    path = spec.model.language_model
    tokenizer = load_tokenizer(path.path, revision=path.revision)
    _score_alone(spec, context, load_language_model(path), tokenizer)


def run_after(spec: RetentionSpec, context: StageContext) -> None:
    """Score the language model that stage 2 left."""
    parts = build_vlm(spec.model, cache=feature_folder(context), seed=0)
    tune(parts.model.language_model, spec.tuning, seed=0, learns=True)
    load_parts(parts.model, context.inputs["instruct"] / WEIGHTS)
    _score_alone(spec, context, parts.model.language_model, parts.chat.tokenizer)


def _score_alone(
    spec: RetentionSpec,
    context: StageContext,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    language_model.eval().to(compute_device(context.trainer.accelerator))
    scores = run_retention(
        language_model,
        tokenizer,
        spec.settings,
        texts=spec.texts,
        folder=context.folder.scratch,
        cache=ScoreCache(context.folder.checkpoints / KEPT, partial(_on_part, context, "tasks")),
    )
    save_retention(scores, context.folder.scratch)

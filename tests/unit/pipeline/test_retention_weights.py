"""Retention tasks are scored with weights of the configured type, not in float32 by default."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from configuration.trainer import Accelerator
from core.precision import EvaluationWeights
from evaluation.retention import RetentionConfig
from models.language.adapters import TuningConfig
from models.language.language_model import LanguageModelConfig, save_language_model
from pipeline.stages import retention
from pipeline.stages.base import InputRole, StageContext
from pipeline.stages.retention import RetentionBaselineStage, RetentionStage
from tests.support.models.tiny_vlm import build_model

pytestmark = pytest.mark.gpu_path


@pytest.mark.parametrize("weights", list(EvaluationWeights))
@pytest.mark.parametrize("kind", [RetentionBaselineStage, RetentionStage])
def test_tasks_are_scored_in_the_configured_type(
    kind: type[RetentionBaselineStage],
    weights: EvaluationWeights,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_model()
    save_language_model(tmp_path / "model", model.language_model)
    seen: list[set[torch.dtype]] = []

    def score(language_model: torch.nn.Module, *_: object, **__: object) -> dict[str, object]:
        seen.append({parameter.dtype for parameter in language_model.parameters()})
        return {}

    def assemble(*_: object, dtype: torch.dtype, **__: object) -> SimpleNamespace:
        """Return float32 weights, which is what stage 2 stores, whatever the type of the rest."""
        assert dtype is weights.dtype
        return SimpleNamespace(model=model, chat=SimpleNamespace(tokenizer=None))

    monkeypatch.setattr(retention, "assemble_trained", assemble)
    monkeypatch.setattr(retention, "load_tokenizer", lambda *_, **__: None)
    monkeypatch.setattr(retention, "run_retention", score)
    monkeypatch.setattr(retention, "save_retention", lambda *_: None)
    place = LanguageModelConfig(path=str(tmp_path / "model"))
    spec = SimpleNamespace(language_model=place, ready_made=None)
    stage = kind(
        model=cast(Any, spec),
        texts={},
        settings=RetentionConfig(tasks=[], weights=weights),
        tuning=TuningConfig(),
    )
    folder = SimpleNamespace(scratch=tmp_path, checkpoints=tmp_path)
    context = SimpleNamespace(
        trainer=SimpleNamespace(accelerator=Accelerator.CPU),
        folder=folder,
        inputs={InputRole.INSTRUCT: tmp_path},
    )
    stage.run(cast(StageContext, context))
    assert seen == [{weights.dtype}]

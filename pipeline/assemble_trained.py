"""Assembly of a trained model of any family."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import torch

from configuration.vlm_spec import VlmSpec
from models.freezing import FreezePolicy
from models.language.adapters import TuningConfig
from pipeline.assemble import VlmParts, assemble
from pipeline.assemble_ready_made import ReadyMadeParts, assemble_ready_made

ModelParts: TypeAlias = VlmParts | ReadyMadeParts
"""A model with its chat format, as stages use it."""


def assemble_trained(  # noqa: PLR0913 - every argument is a step of the assembly
    spec: VlmSpec,
    *,
    features: Path | None,
    tuning: TuningConfig,
    policy: FreezePolicy,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    trained: Sequence[Path],
    is_merged: bool = False,
) -> ModelParts:
    """Build a model with the weights that its last training stage saved.

    Args:
        spec: The model.
        features: Folder of a finished feature cache; None loads the tower of a composed model.
        tuning: Tuning method of the last training stage.
        policy: Parts that it trained.
        dtype: Type of the weights.
        device: Where the weights go; None is the CPU.
        trained: Results of training stages with this tuning, in order.
        is_merged: Merge adapters into the language model.
    """
    if spec.ready_made is not None:
        return assemble_ready_made(
            spec.ready_made,
            tuning=tuning,
            policy=policy,
            dtype=dtype,
            device=device,
            trained=trained,
            is_merged=is_merged,
        )
    return assemble(
        spec,
        features=features,
        tuning=tuning,
        trains_language_model=policy.language_model,
        dtype=dtype,
        device=device,
        trained=trained,
        is_merged=is_merged,
    )

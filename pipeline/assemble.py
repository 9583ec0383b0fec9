"""Assembly of a model from pretrained parts and trained weights, in the one correct order."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from configuration.vlm_spec import VlmSpec
from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import TEMPLATES
from datamodules.batches.feature_cache import FeatureCache
from datamodules.batches.step_dataset import Transform
from models.connector import build_connector, count_placeholders
from models.freezing import FreezeReport
from models.language.adapters import TuningConfig, TuningKind, apply_tuning, merge_adapters
from models.language.language_model import (
    empty_language_model,
    fit_vocabulary,
    load_language_model,
    weights_folder,
)
from models.sharding import load_pretrained
from models.towers.vision_tower import VisionTower, load_vision_tower
from models.vlm import VisionLanguageModel
from models.weights import list_parts, load_weights, save_weights

WEIGHTS = "model.safetensors"
"""File of a training stage's result with the parts that it trained."""
FEATURES_NAME = "cache.txt"
"""File of a features result that names its cache folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VlmParts:
    """A model with its chat format and its source of image features."""

    model: VisionLanguageModel
    chat: ChatFormat
    features: FeatureCache | None
    """Cached features of the tower; the model then holds no tower."""
    fill: Callable[[VisionLanguageModel], None]
    """Loads the weights that `is_empty` left out; under sharding each rank loads its own part."""

    def encode_image(self, image: bytes) -> torch.Tensor:
        """Return what the model takes for an image: features (P, E) or pixels (C, H, W)."""
        if self.features is not None:
            return torch.from_numpy(np.array(self.features.get(image)))
        if self.model.tower is None:
            raise ValueError("neither features nor a tower")
        return self.model.tower.transform(image)

    @property
    def transform(self) -> Transform | None:
        """Transform that loaders apply to an image; None if its features are cached."""
        return None if self.model.tower is None else self.model.tower.transform

    join_images = None
    """Pixels and features are stacked."""
    attention = None
    """Every kernel of `compute.attention` is supported."""

    def save_trained(self, path: Path, report: FreezeReport, *, is_writer: bool) -> None:
        """Save the parts that a stage trained."""
        trained = {line.part for line in report.lines if line.trainable}
        parts = {name: getattr(self.model, name) for name in sorted(trained)}
        save_weights(path, parts, is_writer=is_writer)


def assemble(  # noqa: PLR0913 - every argument is a step of the assembly
    spec: VlmSpec,
    *,
    features: Path | None,
    tuning: TuningConfig,
    trains_language_model: bool,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    initial: Sequence[Path] = (),
    trained: Sequence[Path] = (),
    is_empty: bool = False,
    is_merged: bool = False,
) -> VlmParts:
    """Build a model, load weights, and apply the tuning method of its last stage.

    The order is: pretrained parts and a fresh connector, weights of earlier stages (`initial`), the
    tuning method (quantisation, adapters), weights saved by a stage with this tuning (`trained`),
    and merging of adapters.

    Args:
        spec: Parts of the model.
        features: Folder of a finished feature cache; None loads the tower.
        tuning: Tuning method of the last training stage.
        trains_language_model: Whether that stage trains the language model.
        seed: Seed of the fresh connector and adapters.
        dtype: Type of the weights of the language model.
        device: Where the weights go, without a copy of the model in main memory; None is the CPU.
            Weights that are quantised (QLoRA) or left out (`is_empty`) stay on the CPU.
        initial: Results of earlier training stages, in order.
        trained: Results of training stages with this tuning, in order.
        is_empty: Leave the language model without weights and untuned; `VlmParts.fill` loads them.
        is_merged: Merge adapters into the language model.
    """
    cache = FeatureCache.open(features) if features is not None else None
    if tuning.kind is TuningKind.QLORA:
        # It quantises float32 weights on the CPU, so that every stage gets the same 4-bit weights.
        dtype, device = torch.float32, None
    load = empty_language_model if is_empty else partial(load_language_model, device=device)
    language_model = load(spec.language_model, dtype=dtype)
    model, chat = _build_model(spec, cache, language_model, seed=seed)
    if device is not None and not is_empty:
        model.to(device)

    def fill(model: VisionLanguageModel) -> None:
        if is_empty:
            load_pretrained(model.language_model, weights_folder(spec.language_model))
        _load_parts(model, initial)

    if not is_empty:
        fill(model)
        apply_tuning(model.language_model, tuning, seed=seed, learns=trains_language_model)
        _load_parts(model, trained)
        if is_merged:
            merge_adapters(model.language_model)
    return VlmParts(model=model, chat=chat, features=cache, fill=fill)


def _build_model(
    spec: VlmSpec, cache: FeatureCache | None, language_model: PreTrainedModel, *, seed: int
) -> tuple[VisionLanguageModel, ChatFormat]:
    """Build the model with pretrained parts and a fresh connector, and its chat format."""
    tower = load_vision_tower(spec.tower) if cache is None else None
    width, num_features = _feature_shape(tower, cache)
    connector = build_connector(
        spec.connector,
        vision_width=width,
        model_width=language_model.config.hidden_size,
        seed=seed,
        language_model=language_model.config,
    )
    num_image_tokens = count_placeholders(spec.connector, num_features)
    tokenizer = load_tokenizer(spec.language_model.path, revision=spec.language_model.revision)
    chat = ChatFormat(tokenizer, TEMPLATES[spec.template], num_image_tokens=num_image_tokens)
    fit_vocabulary(language_model, len(tokenizer))
    model = VisionLanguageModel(
        tower, connector, language_model, image_token_id=chat.image_token_id
    )
    return model, chat


def feature_folder(result: Path) -> Path:
    """Return the feature cache inside the result of a features stage."""
    return result / (result / FEATURES_NAME).read_text()


def _load_parts(model: VisionLanguageModel, results: Sequence[Path]) -> None:
    for result in results:
        path = result / WEIGHTS
        load_weights(path, {name: getattr(model, name) for name in list_parts(path)})


def _feature_shape(tower: VisionTower | None, cache: FeatureCache | None) -> tuple[int, int]:
    """Return the width of the visual features and their number for one image."""
    if tower is not None:
        return tower.width, tower.num_image_tokens
    if cache is None:
        raise ValueError("either a tower or its cached features are needed")
    return cache.width, cache.num_image_tokens

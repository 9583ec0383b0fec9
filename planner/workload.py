"""How much data goes through a stage: measured where it is there, expected where it is not yet."""

import dataclasses
from collections.abc import Mapping
from functools import cache as memoize
from pathlib import Path

from configuration.run_config import ExpectedSource
from core.chat.format import TEMPLATES, ChatFormat, PromptStyle, load_tokenizer
from core.errors import ConfigError
from datamodules.batches.lengths import measure_lengths
from datamodules.mixture.config import ComponentConfig
from datamodules.shards.manifest import load_manifest
from datamodules.shards.source import Source
from models.towers.vision_tower import VisionTowerConfig, count_image_tokens
from pipeline.stages.specs import EvaluateSpec, TrainSpec, VlmSpec

QUESTIONS_PER_IMAGE, TOKENS_PER_QUESTION = 4, 60
"""Of the embedded benchmark; others say what they expect."""
Expected = Mapping[str, tuple[ExpectedSource, str]]
"""Path of a manifest -> what stands for it and its language (`mixtures.expected_manifests`)."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What a stage computes on; means over samples may be fractions."""

    num_steps: int = 0
    num_samples: float = 0.0
    num_images: float = 0.0
    num_tokens: float = 0.0
    """With those of images."""
    num_loss_tokens: float = 0.0
    epochs: str = ""
    is_expected: bool = False
    """Whether a part of it is not measured."""

    @property
    def document_tokens(self) -> float:
        """Mean length of a sample."""
        return self.num_tokens / self.num_samples if self.num_samples else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Lengths:
    """Means of one source."""

    num_samples: int
    tokens: float
    loss_tokens: float
    images: float
    is_expected: bool


class Loads:
    """Loads of stages, each source measured once."""

    def __init__(self, expected: Expected, cache: Path) -> None:
        self._expected, self._cache = expected, cache
        self._known: dict[object, _Lengths] = {}

    def of_training(self, spec: TrainSpec) -> Load:
        """What a training stage reads."""
        total = Load(num_steps=spec.num_steps)
        epochs = []
        for name, component in spec.stream.mixture.components.items():
            style = spec.stream.prompt_style or PromptStyle.CHAT
            for path, drawn in _draws(component, spec.num_steps).items():
                means = self._lengths(path, spec.model, style)
                total = _add(total, means, drawn)
            size = self._lengths(component.base, spec.model, style).num_samples
            epochs.append(f"{name} {component.samples_in(spec.num_steps) / size:.1f}")
        return dataclasses.replace(total, epochs=", ".join(epochs))

    def of_evaluation(self, spec: EvaluateSpec) -> Load:
        """Questions in all languages, once with the image and once without, if that is asked."""
        rounds = len(spec.languages) * (2 if spec.settings.blind else 1)
        num_image_tokens = _count_image_tokens(spec.model.tower)
        if self._is_missing(spec.manifest):
            source, language = self._expected[spec.manifest]
            questions, text = source.num_samples, source.text_tokens[language]
        else:
            images = load_manifest(Path(spec.manifest)).num_samples
            questions, text = images * QUESTIONS_PER_IMAGE, float(TOKENS_PER_QUESTION)
        return Load(
            num_samples=questions * rounds,
            num_images=questions * rounds,
            num_tokens=questions * rounds * (text + num_image_tokens),
            is_expected=self._is_missing(spec.manifest),
        )

    def num_images(self, manifests: tuple[str, ...]) -> int:
        """Images of several sources."""
        return sum(
            self._expected[path][0].num_samples
            if self._is_missing(path)
            else load_manifest(Path(path)).num_samples
            for path in manifests
        )

    def _is_missing(self, path: str) -> bool:
        return path in self._expected and not Path(path).exists()

    def _lengths(self, path: str, model: VlmSpec, style: PromptStyle) -> _Lengths:
        key = (path, model.language_model, model.template, model.tower, style)
        if key not in self._known:
            is_guessed = path in self._expected and not (
                Path(path).exists() and _has_tokenizer(model)
            )
            self._known[key] = (
                self._expect(path, model) if is_guessed else self._measure(path, model, style)
            )
        return self._known[key]

    def _expect(self, path: str, model: VlmSpec) -> _Lengths:
        source, language = self._expected[path]
        images = 1.0 if source.has_images else 0.0
        return _Lengths(
            num_samples=source.num_samples,
            tokens=source.text_tokens[language] + images * _count_image_tokens(model.tower),
            loss_tokens=source.loss_tokens.get(language, source.text_tokens[language]),
            images=images,
            is_expected=True,
        )

    def _measure(self, path: str, model: VlmSpec, style: PromptStyle) -> _Lengths:
        source = Source(Path(path))
        lengths = measure_lengths(source, chat_of(model), style, self._cache / "lengths")
        return _Lengths(
            num_samples=len(lengths.num_tokens),
            tokens=float(lengths.num_tokens.mean()),
            loss_tokens=float(lengths.num_loss_tokens.mean()),
            images=1.0 if source.manifest.modality == "image-text" else 0.0,
            is_expected=False,
        )


@memoize
def _count_image_tokens(tower: VisionTowerConfig) -> int:
    return count_image_tokens(tower)


@memoize
def chat_of(model: VlmSpec) -> ChatFormat:
    """The chat format of a model."""
    language_model = model.language_model
    tokenizer = load_tokenizer(language_model.path, revision=language_model.revision)
    return ChatFormat(
        tokenizer, TEMPLATES[model.template], num_image_tokens=_count_image_tokens(model.tower)
    )


@memoize
def _has_tokenizer(model: VlmSpec) -> bool:
    try:
        chat_of(model)
    except ConfigError:
        return False
    return True


def _draws(component: ComponentConfig, num_steps: int) -> dict[str, float]:
    """Manifest -> samples that a stage draws from it."""
    starts = [0, *(phase.from_step for phase in component.phases)]
    stops = [*starts[1:], num_steps]
    draws: dict[str, float] = {component.base: 0.0}
    for start, stop in zip(starts, stops, strict=True):
        samples, share = component.at(start)
        drawn = samples * max(0, min(stop, num_steps) - start)
        draws[component.base] += drawn * (1 - share)
        if component.target:
            draws[component.target] = draws.get(component.target, 0.0) + drawn * share
    return draws


def _add(load: Load, means: _Lengths, drawn: float) -> Load:
    return dataclasses.replace(
        load,
        num_samples=load.num_samples + drawn,
        num_images=load.num_images + drawn * means.images,
        num_tokens=load.num_tokens + drawn * means.tokens,
        num_loss_tokens=load.num_loss_tokens + drawn * means.loss_tokens,
        is_expected=load.is_expected or (means.is_expected and drawn > 0),
    )

"""Amount of data that a stage processes: measured where the data exist, otherwise expected."""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from configuration.data_config import ExpectedSource
from configuration.run_config import EvaluateConfig
from configuration.vlm_spec import VlmSpec
from core.chat.format import PromptStyle
from datamodules.batches.lengths import measure_lengths
from datamodules.mixture.config import ComponentConfig
from datamodules.mixture.curriculum import mixture_schedule
from datamodules.mixture.target_samples import plan_numbers
from datamodules.mixture_datamodule import StreamConfig
from datamodules.shards.manifest import load_manifest
from datamodules.shards.source import Source
from evaluation.benchmarks.items import Benchmark, load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.reasked import NUM_ALONE, WORDED_KINDS, shuffled_per_group
from evaluation.option_likelihood import beginnings
from planner.encoding import chat_of, has_chat, image_tokens_of

TOKENS_PER_QUESTION = 60
"""Mean of the embedded benchmark; profiles with other benchmarks state their own number."""
ExpectedSources = Mapping[str, tuple[ExpectedSource, str]]
"""Path of a manifest -> the source expected there and its language
(`configuration.mixture.expected_manifests`)."""
_Group = tuple[Benchmark, str]
"""Kind and answer type of questions."""
_NUM_CHOICES = 4
"""Typical number of choices of a question, whose likelihoods are computed."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Amount of data of a stage; derived from means over samples, so numbers may be fractions."""

    num_steps: int = 0
    num_samples: float = 0.0
    num_images: float = 0.0
    num_tokens: float = 0.0
    """Tokens, including image tokens."""
    num_loss_tokens: float = 0.0
    num_replies: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """Limit of the length of replies, in tokens -> number of questions with this limit, asked in
    batches."""
    num_alone: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """The same for questions that the sanity checks ask one at a time."""
    epochs: str = ""
    is_expected: bool = False
    """Whether some of the numbers are expected, not measured."""

    @property
    def document_tokens(self) -> float:
        """Mean number of tokens of a sample."""
        return self.num_tokens / self.num_samples if self.num_samples else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Lengths:
    """Mean lengths of one source."""

    num_samples: int
    tokens: float
    loss_tokens: float
    images: float
    is_expected: bool


class StreamFields(Protocol):
    """Fields of a training stage that its data depend on."""

    @property
    def model(self) -> VlmSpec:
        """Parts of the model."""

    @property
    def stream(self) -> StreamConfig:
        """Data and batch sizes."""

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""


class EvaluationFields(Protocol):
    """Fields of an evaluation stage that its data depend on."""

    @property
    def model(self) -> VlmSpec:
        """Parts of the model."""

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """Manifests of the benchmarks."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages of the questions."""

    @property
    def settings(self) -> EvaluateConfig:
        """Settings of the evaluation."""


class Workloads:
    """Amounts of data of stages; each source is measured once."""

    def __init__(self, expected: ExpectedSources, cache_folder: Path) -> None:
        self._expected, self._cache = expected, cache_folder
        self._known: dict[object, _Lengths] = {}
        self._questions: dict[str, Mapping[_Group, int]] = {}

    def of_training(self, stage: StreamFields) -> Load:
        """Return the data that a training stage reads."""
        total = Load(num_steps=stage.num_steps)
        epochs = []
        mixture, style = stage.stream.mixture, stage.stream.prompt_style or PromptStyle.CHAT
        sizes = {
            name: self._lengths(component.base, stage.model, style).num_samples
            for name, component in mixture.components.items()
        }
        planned = plan_numbers(mixture, mixture_schedule(mixture), sizes)
        for name, component in mixture.components.items():
            own = planned.get(name)
            share = None if own is None else own.share
            for path, drawn in _draws(component, stage.num_steps, share).items():
                means = self._lengths(path, stage.model, style)
                total = _add(total, means, drawn)
            size = sizes[name] if own is None or own.num_base is None else own.capacity
            epochs.append(f"{name} {component.samples_in(stage.num_steps) / size:.1f}")
        return dataclasses.replace(total, epochs=", ".join(epochs))

    def of_evaluation(self, stage: EvaluationFields) -> Load:
        """Return the questions in all languages, with a blank image, and of the sanity checks."""
        rounds = len(stage.languages) * (2 if stage.settings.blind else 1)
        num_image_tokens = image_tokens_of(stage.model)
        groups = {path: self._questions_by_group(path) for path in stage.benchmarks}
        scored = sum(
            kind is not Benchmark.WILD for of_path in groups.values() for kind, _ in of_path
        )
        most_shuffled = shuffled_per_group(scored * len(stage.languages))
        total = sum(sum(of_path.values()) for of_path in groups.values())
        share_alone = min(NUM_ALONE, total * len(stage.languages)) / max(1, total)
        asked, num_tokens = 0.0, 0.0
        num_replies, num_alone = dict[int, float](), dict[int, float]()
        for path, of_path in groups.items():
            text = float(TOKENS_PER_QUESTION)
            if self._is_missing(path):
                source, language = self._expected[path]
                text = source.text_tokens[language]
            for (kind, _), questions in of_path.items():
                limit = stage.settings.limits.of_kind(kind)
                shuffled = 0 if kind is Benchmark.WILD else min(questions, most_shuffled)
                worded = len(stage.settings.wordings) if kind in WORDED_KINDS else 0
                batched = questions * (rounds + worded * len(stage.languages))
                batched += shuffled * len(stage.languages)
                alone = questions * share_alone
                num_replies[limit] = num_replies.get(limit, 0.0) + batched
                num_alone[limit] = num_alone.get(limit, 0.0) + alone
                rated = (
                    questions
                    * rounds
                    / len(stage.languages)
                    * sum(_num_rated(kind, language) for language in stage.languages)
                )
                read = batched + alone
                if stage.settings.likelihood and rated:
                    # The options of a question share its image; each computes the text again.
                    each_round = questions * rounds
                    read += each_round + rated * text / (text + num_image_tokens)
                asked += read
                num_tokens += read * (text + num_image_tokens)
        return Load(
            num_samples=asked,
            num_images=asked,
            num_tokens=num_tokens,
            num_replies=num_replies,
            num_alone=num_alone,
            is_expected=any(map(self._is_missing, stage.benchmarks)),
        )

    def _questions_by_group(self, path: str) -> Mapping[_Group, int]:
        """Return the number of questions of each kind and answer type in one language.

        The answer types of a benchmark that does not exist yet are unknown and counted as one.
        """
        if self._is_missing(path):
            source, _ = self._expected[path]
            by_kind = source.questions_by_kind or {Benchmark.VQA.value: source.num_samples}
            return {(Benchmark(kind), ""): number for kind, number in by_kind.items()}
        if path not in self._questions:
            language = load_manifest(Path(path)).language.partition(",")[0]
            items = load_benchmark(Path(path), [language], with_images=False)
            self._questions[path] = Counter((item.benchmark, item.answer_type) for item in items)
        return self._questions[path]

    def num_samples(self, manifests: tuple[str, ...]) -> int:
        """Return the number of samples of several sources."""
        return sum(
            self._expected[path][0].num_samples
            if self._is_missing(path)
            else load_manifest(Path(path)).num_samples
            for path in manifests
        )

    def _is_missing(self, path: str) -> bool:
        return path in self._expected and not Path(path).exists()

    def _lengths(self, path: str, model: VlmSpec, style: PromptStyle) -> _Lengths:
        key = (path, model.encoding, style)
        if key not in self._known:
            is_guessed = path in self._expected and not (Path(path).exists() and has_chat(model))
            self._known[key] = (
                self._expect(path, model) if is_guessed else self._measure(path, model, style)
            )
        return self._known[key]

    def _expect(self, path: str, model: VlmSpec) -> _Lengths:
        source, language = self._expected[path]
        images = 1.0 if source.has_images else 0.0
        return _Lengths(
            num_samples=source.num_samples,
            tokens=source.text_tokens[language] + images * image_tokens_of(model),
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


def _draws(
    component: ComponentConfig, num_steps: int, planned_share: float | None
) -> dict[str, float]:
    """Return manifest -> number of samples that a stage draws from it.

    Args:
        component: A component of the mixture.
        num_steps: Optimizer steps of the stage.
        planned_share: Share of the target language that replaces the configured one.
    """
    starts = [0, *(phase.from_step for phase in component.phases)]
    stops = [*starts[1:], num_steps]
    draws: dict[str, float] = {component.base: 0.0}
    for start, stop in zip(starts, stops, strict=True):
        samples, configured_share = component.at(start)
        share = configured_share if planned_share is None else planned_share
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


def _num_rated(kind: Benchmark, language: str) -> int:
    """Return the number of replies to a question whose likelihood is computed."""
    if kind is Benchmark.MULTIPLE_CHOICE:
        return _NUM_CHOICES
    if kind is not Benchmark.CAPTION_QA:
        return 0
    return len(beginnings(load_prompts([language]).yes_no_words[language]))

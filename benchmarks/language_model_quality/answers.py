"""Answers of language models to the knowledge questions of the embedded data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.language_model_quality.levels import above_chance, relative_score
from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import EMBEDDED
from core.rng import named_rng
from core.samples import Role
from datamodules.shards.source import Source
from models.connector import ConnectorConfig, build_connector
from models.language.language_model import LanguageModelConfig, load_language_model
from models.vlm import VisionLanguageModel

MAX_NEW_TOKENS = 16
NUM_RESAMPLES = 2_000
INTERVAL = (0.025, 0.975)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Correctness of each answer of a model, by language; questions have the same order."""

    types: np.ndarray
    """Type of every question (str)."""
    chances: Mapping[str, float]
    """Mean probability of a right guess, by type."""
    right: Mapping[str, np.ndarray]
    """Language -> bool, one per question."""

    def accuracy(self, language: str, kind: str) -> float:
        """Return the share of right answers to the questions of a type."""
        return float(self.right[language][self.types == kind].mean())

    def above_chance(self, language: str, sample: np.ndarray | None = None) -> list[float]:
        """Return the score above chance of every type, of all questions or of a sample."""
        chosen = np.arange(len(self.types)) if sample is None else sample
        types, right = self.types[chosen], self.right[language][chosen]
        return [
            above_chance(float(right[types == kind].mean()), chance)
            for kind, chance in self.chances.items()
        ]

    def ratio(self, base: str, target: str, sample: np.ndarray | None = None) -> float:
        """Return the score above chance relative to the base language, averaged over types."""
        scores = [self.above_chance(language, sample) for language in (base, target)]
        return relative_score(scores[0], scores[1])

    def ratio_interval(self, base: str, target: str) -> tuple[float, float]:
        """Return the 95 % percentile interval over resampled questions, within each type."""
        rng = named_rng(0, "language_model_quality")
        groups = [np.flatnonzero(self.types == kind) for kind in self.chances]
        ratios = [
            self.ratio(base, target, np.concatenate([rng.choice(g, len(g)) for g in groups]))
            for _ in range(NUM_RESAMPLES)
        ]
        low, high = np.quantile(ratios, INTERVAL)
        return float(low), float(high)


def load(folder: Path) -> tuple[VisionLanguageModel, ChatFormat]:
    """Load a language model behind an unused connector."""
    chat = ChatFormat(load_tokenizer(folder), EMBEDDED, num_image_tokens=1)
    language_model = load_language_model(LanguageModelConfig(path=str(folder))).eval()
    width = language_model.config.hidden_size
    connector = build_connector(ConnectorConfig(), vision_width=1, model_width=width, seed=0)
    model = VisionLanguageModel(None, connector, language_model, image_token_id=chat.image_token_id)
    return model, chat


def measure(folder: Path, data: Path, languages: Sequence[str]) -> Scores:
    """Ask a language model all knowledge questions and compare its answers exactly."""
    model, chat = load(folder)
    sources = {code: Source(data / f"knowledge_{code}.manifest.json") for code in languages}
    first = sources[languages[0]]
    types = np.asarray([first.key(i).rsplit("-", 1)[0] for i in range(len(first))])
    chances = first.manifest.statistics["chance"]
    right = {code: _right_answers(model, chat, source) for code, source in sources.items()}
    return Scores(types=types, chances=chances, right=right)


def _right_answers(model: VisionLanguageModel, chat: ChatFormat, source: Source) -> np.ndarray:
    prompts, answers = [], []
    for index in range(len(source)):
        turns = source.read(index).turns
        prompts.append(chat.encode_prompt([t for t in turns if t.role is not Role.ASSISTANT]))
        answers.append(turns[-1].content)
    replies = model.generate(
        prompts,
        [None] * len(prompts),
        max_new_tokens=MAX_NEW_TOKENS,
        end_token_id=chat.end_token_id,
        pad_token_id=chat.pad_token_id,
        batch_size=128,
    )
    return np.asarray([chat.decode(r) == a for r, a in zip(replies, answers, strict=True)])

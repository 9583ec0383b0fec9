"""What tells a bad translation without knowing the language: measured, kept, and filtered by."""

import dataclasses
import functools
import zlib
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from core.errors import ConfigError
from data_prep.prepare import segments
from data_prep.prepare.faults import DroppedError

CUT_OFF = "\u0000cut off\u0000"
"""Stands for a translation that had no room; no text contains it."""
_RATIO_FROM = 20
"""Characters from which on a ratio of lengths means something."""
_REPETITION_FROM = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Which translations are left out; 0 or false turns a filter off."""

    min_length_ratio: float = 0.35
    max_length_ratio: float = 3.0
    language_from: int = 30
    """Characters from which on the language is identified (between the two languages)."""
    numbers: bool = True
    """The same numbers on both sides."""
    placeholders: bool = True
    """Code, markup, addresses, option letters on both sides."""
    max_repetition: float = 0.75
    """Share of a text that compression saves beyond what it saves on the source."""
    untranslated_from: int = 3
    """Words from which on a translation may not equal its source."""

    def __post_init__(self) -> None:
        """Check the ratios."""
        if not 0 <= self.min_length_ratio < self.max_length_ratio:
            raise ConfigError("quality: min_length_ratio must lie below max_length_ratio")


def measure(source: str, translation: str, languages: tuple[str, str]) -> dict[str, Any]:
    """Figures of a translated text, stored with it. `languages`: of source and translation."""
    found: dict[str, Any] = {
        "length_ratio": round(len(translation) / max(1, len(source)), 3),
        "repetition": round(_saved(translation) - _saved(source), 3),
    }
    if len(translation) >= _RATIO_FROM and (language := identify_or_none(translation, languages)):
        found["language"] = language
    return found


def check(
    source: str, translation: str, figures: dict[str, Any], config: QualityConfig, language: str
) -> None:
    """Raise DroppedError with the first reason against a translation."""
    if translation == CUT_OFF:
        raise DroppedError("translation: cut off", source[:120])
    if not translation.strip():
        raise DroppedError("translation: empty", _shown(source, translation))
    for reason in _reasons(source, translation, figures, config, language):
        raise DroppedError(f"translation: {reason}", _shown(source, translation))


def _reasons(
    source: str, translation: str, figures: dict[str, Any], config: QualityConfig, language: str
) -> list[str]:
    ratio, ratio_counts = figures["length_ratio"], len(source) >= _RATIO_FROM
    found = figures.get("language", language)
    same = source.strip() == translation.strip()
    num_words = sum(piece.count(" ") + 1 for piece, wanted in segments.split(source) if wanted)
    tests = {
        "untranslated": 0 < config.untranslated_from <= num_words and same,
        "too short": ratio_counts and ratio < config.min_length_ratio,
        "too long": ratio_counts and ratio > config.max_length_ratio,
        "repeats itself": 0 < config.max_repetition < figures["repetition"]
        and len(translation) >= _REPETITION_FROM,
        "other numbers": config.numbers
        and segments.numbers(source) != segments.numbers(translation),
        "placeholders differ": config.placeholders
        and segments.untouchables(source) != segments.untouchables(translation),
        "wrong language": 0 < config.language_from <= len(translation) and found != language,
    }
    return [reason for reason, fails in tests.items() if fails]


def identify_or_none(text: str, languages: tuple[str, str]) -> str | None:
    """Which of two languages a text is in; None where the library does not know both."""
    identifier = _identifier(tuple(sorted(set(languages))))
    return None if identifier is None else str(identifier.classify(text)[0])


@functools.lru_cache(maxsize=4)
def _identifier(languages: tuple[str, ...]) -> LanguageIdentifier | None:
    """Between these languages; None where the library does not know them all."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    if not set(languages) <= set(identifier.labels):
        return None
    identifier.set_languages(list(languages))
    return identifier


def _saved(text: str) -> float:
    """Share of a text's bytes that compression saves."""
    content = text.encode("utf-8")
    return max(0.0, 1 - len(zlib.compress(content, 9)) / max(1, len(content)))


def _shown(source: str, translation: str) -> str:
    return f"{source[:120]!r} -> {translation[:120]!r}"

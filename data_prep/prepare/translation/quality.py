"""Language-independent quality measures of translations, and the filters that use them."""

import dataclasses
import functools
import zlib
from typing import Any

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from core.errors import ConfigError
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.translation import segments

CUT_OFF = "\u0000cut off\u0000"
"""Marks a translation that was truncated; it occurs in no text."""
_MIN_CHARACTERS_FOR_RATIO = 20
"""The length ratio of shorter texts is not meaningful."""
_MIN_CHARACTERS_FOR_REPETITION = 60


@dataclasses.dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """Thresholds of the translation filters; 0 or false turns a filter off."""

    min_length_ratio: float = 0.35
    max_length_ratio: float = 3.0
    language_from: int = 30
    """Minimum number of characters for language identification between the two languages."""
    numbers: bool = True
    """Require the same numbers on both sides."""
    placeholders: bool = True
    """Require the same code, markup, URLs and option letters on both sides."""
    max_repetition: float = 0.75
    """Maximum share of bytes that compression saves beyond what it saves on the source."""
    untranslated_from: int = 3
    """Minimum number of words for which a translation must differ from its source."""

    def __post_init__(self) -> None:
        """Validate the ratios."""
        if not 0 <= self.min_length_ratio < self.max_length_ratio:
            raise ConfigError(
                f"quality: min_length_ratio {self.min_length_ratio:g} must be at least 0 and below "
                f"max_length_ratio {self.max_length_ratio:g}"
            )


def measure(source: str, translation: str, languages: tuple[str, str]) -> dict[str, Any]:
    """Measure a translation.

    Args:
        source: Source text.
        translation: Its translation.
        languages: Languages of the source and of the translation.

    Returns:
        Figures that are stored with the sample.
    """
    found: dict[str, Any] = {
        "length_ratio": round(len(translation) / max(1, len(source)), 3),
        "repetition": round(_compression_saving(translation) - _compression_saving(source), 3),
    }
    if len(translation) >= _MIN_CHARACTERS_FOR_RATIO and (
        language := identify_or_none(translation, languages)
    ):
        found["language"] = language
    return found


def check(
    source: str, translation: str, figures: dict[str, Any], config: QualityConfig, language: str
) -> None:
    """Apply the filters to a translation.

    Raises:
        DroppedError: If a filter rejects the translation, with the first reason.
    """
    if translation == CUT_OFF:
        raise DroppedError("translation: cut off", source[:120])
    if not translation.strip():
        raise DroppedError("translation: empty", _format_pair(source, translation))
    for reason in _reasons(source, translation, figures, config, language):
        raise DroppedError(f"translation: {reason}", _format_pair(source, translation))


def _reasons(
    source: str, translation: str, figures: dict[str, Any], config: QualityConfig, language: str
) -> list[str]:
    ratio, ratio_counts = figures["length_ratio"], len(source) >= _MIN_CHARACTERS_FOR_RATIO
    found = figures.get("language", language)
    same = source.strip() == translation.strip()
    num_words = sum(piece.count(" ") + 1 for piece, wanted in segments.split(source) if wanted)
    tests = {
        "untranslated": 0 < config.untranslated_from <= num_words and same,
        "too short": ratio_counts and ratio < config.min_length_ratio,
        "too long": ratio_counts and ratio > config.max_length_ratio,
        "repeats itself": 0 < config.max_repetition < figures["repetition"]
        and len(translation) >= _MIN_CHARACTERS_FOR_REPETITION,
        "other numbers": config.numbers
        and segments.numbers(source) != segments.numbers(translation),
        "placeholders differ": config.placeholders
        and segments.untouchables(source) != segments.untouchables(translation),
        "wrong language": 0 < config.language_from <= len(translation) and found != language,
    }
    return [reason for reason, fails in tests.items() if fails]


def identify_or_none(text: str, languages: tuple[str, str]) -> str | None:
    """Return which of two languages a text is in, or None if the library lacks one of them."""
    identifier = _identifier(tuple(sorted(set(languages))))
    return None if identifier is None else str(identifier.classify(text)[0])


@functools.lru_cache(maxsize=4)
def _identifier(languages: tuple[str, ...]) -> LanguageIdentifier | None:
    """Return an identifier restricted to the languages, or None if the library lacks one."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    if not set(languages) <= set(identifier.labels):
        return None
    identifier.set_languages(list(languages))
    return identifier


def _compression_saving(text: str) -> float:
    """Return the share of a text's bytes that compression saves."""
    content = text.encode("utf-8")
    return max(0.0, 1 - len(zlib.compress(content, 9)) / max(1, len(content)))


def _format_pair(source: str, translation: str) -> str:
    return f"{source[:120]!r} -> {translation[:120]!r}"

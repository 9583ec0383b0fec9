"""Replies in the wrong language, apart from lost knowledge.

A cell that answers English questions in Basque scores almost 0 in English without having forgotten
anything. The accuracy in any language counts the answer to the same question in the other language,
so it stays high if only the reply language is lost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from reporting.records import GridRecord
from reporting.series import COLLAPSE_PANELS, View, lines
from reporting.settings import NBSP, Setting, format_percent

_CLEAR_GAIN = 5.0
"""Points of accuracy that replies in another language must add to be named as the reason."""
_COLLAPSED_BELOW = 50.0
"""Percentage of replies in the asked language below which a cell has lost the language."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageCollapse:
    """Reply language and knowledge of one setting at one share in one language, in percent.

    All scores concern the open questions (vqa) and are normalised as in lmms-eval.
    """

    setting: Setting
    share: float
    language: str
    fidelity: float
    """Share of the replies in the language of the question."""
    accuracy: float
    """Accuracy over all replies."""
    accuracy_any_language: float
    """Accuracy if the answer in the other language counts, too."""

    @property
    def is_collapsed(self) -> bool:
        """Return whether most replies are in another language than the question."""
        return self.fidelity < _COLLAPSED_BELOW


def language_collapse(grid: GridRecord, view: View) -> list[LanguageCollapse]:
    """Return one entry per language, setting and share with results, averaged over seeds."""
    found = {
        panel.key: {
            (line.language, line.setting, point.share): point
            for line in lines(grid, view, panel)
            for point in line.points
        }
        for panel in COLLAPSE_PANELS
    }
    accuracy, any_language = found["accuracy_lmms"], found["accuracy_any_language"]
    return [
        LanguageCollapse(
            setting=key[1],
            share=key[2],
            language=key[0],
            fidelity=point.value,
            accuracy=accuracy[key].value,
            accuracy_any_language=any_language[key].value,
        )
        for key, point in found["vqa_fidelity"].items()
        if key in accuracy and key in any_language
    ]


def collapse_sentences(grid: GridRecord, view: View) -> list[str]:
    """Report the cells that reply in the wrong language, one sentence per language and share."""
    groups: dict[tuple[str, float], list[LanguageCollapse]] = {}
    for entry in language_collapse(grid, view):
        if entry.is_collapsed:
            groups.setdefault((entry.language, entry.share), []).append(entry)
    return [_describe(language, share, entries) for (language, share), entries in groups.items()]


def _describe(language: str, share: float, entries: Sequence[LanguageCollapse]) -> str:
    fidelity, accuracy, any_language = (
        fmean(getattr(entry, name) for entry in entries)
        for name in ("fidelity", "accuracy", "accuracy_any_language")
    )
    is_language = any_language - accuracy >= _CLEAR_GAIN
    conclusion = (
        "a part of what is missing is due to the language of the replies rather than to forgetting"
        if is_language
        else "few of the replies are right in the other language either"
    )
    return (
        f"At a target-language share of {format_percent(share)}, {fidelity:.1f}{NBSP}% of the "
        f"replies to questions in {language} are in that language. The accuracy is "
        f"{accuracy:.1f}{NBSP}%, and {any_language:.1f}{NBSP}% if the answer in the other language "
        f"counts: {conclusion}."
    )

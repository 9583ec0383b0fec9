"""Items written by speakers: do they help on questions about their own culture?"""

import dataclasses
from typing import Any

from configuration.axes import vary
from configuration.mixture_lines import MixtureLineConfig
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from core.errors import ConfigError
from evaluation.retention import RetentionConfig

BENCHMARK, SOURCE = "culture_test", "culture_instruct"
"""Native questions and training items, written by `python -m data_prep.native_study`."""
_CULTURE = "culture"
_SHARES = (0.0, 0.25, 0.5)
"""Shares of the image samples of stage 2 that are items of speakers; the total is the same."""
_TARGET_SHARES = (0.2, 1.0)
_SOURCE = "PAPER: open question, all data are translations"
_COMMON: dict[str, Any] = {
    "source": _SOURCE, "axis": _CULTURE, "second": "none", "pool": ["target_share"],
    "kind": "mc", "quantity": "attributable",
}  # fmt: skip

hypotheses: dict[str, dict[str, Any]] = {
    "culture_items_help": {
        **_COMMON,
        "text": "Items of speakers ({first}) improve answers to native questions",
        "first": "share_50",
        "benchmark": BENCHMARK,
        "test": "superiority",
    },
    "culture_items_help_there_more": {
        **_COMMON,
        "text": "Items of speakers ({first}) are worth more on native than on translated questions",
        "first": "share_50",
        "population": {"benchmark": BENCHMARK},
        "contrast": {"question_types": ["choice"]},
        "test": "superiority",
    },
    "fewer_culture_items_help_there_more": {
        **_COMMON,
        "text": "Items of speakers ({first}) are worth more on native than on translated questions",
        "first": "share_25",
        "population": {"benchmark": BENCHMARK},
        "contrast": {"question_types": ["choice"]},
        "test": "superiority",
    },
    "culture_items_cost_nothing": {
        **_COMMON,
        "text": "Items of speakers ({first}) instead of translated ones do no harm elsewhere",
        "first": "share_25",
        "kind": ["vqa", "mc"],
        "test": "non_inferiority",
    },
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return three shares of items of speakers at two shares of the target language.

    They replace other image samples of stage 2 in proportion, and follow the share of the target
    language like these. Text-only tasks are left out.

    Raises:
        ConfigError: If the profile has a line of this name.
    """
    lines = base.instruct.visual
    if _CULTURE in lines:
        raise ConfigError(f"instruct.visual has a line '{_CULTURE}' already; rename it")
    total = sum(line.samples_per_step for line in lines.values())
    benchmarks = [*(b for b in base.data.benchmarks if b != BENCHMARK), BENCHMARK]
    base = replace_fields(base, {"data.benchmarks": benchmarks, "retention": RetentionConfig()})
    variants: dict[str, dict[str, Any]] = {}
    for share in _SHARES:
        name = f"share_{100 * share:g}" if share else "none"
        variants[name] = {"instruct.visual": _mixed(lines, share, total)}
    return vary(base, {_CULTURE: variants}, target_share=_TARGET_SHARES)


def _mixed(
    lines: dict[str, MixtureLineConfig], share: float, total: float
) -> dict[str, MixtureLineConfig]:
    """Return mixture lines of which a share are items of speakers."""
    if not share:
        return lines
    kept = {
        name: dataclasses.replace(line, samples_per_step=line.samples_per_step * (1 - share))
        for name, line in lines.items()
    }
    return {**kept, _CULTURE: MixtureLineConfig(source=SOURCE, samples_per_step=total * share)}

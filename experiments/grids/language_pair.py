"""Two target languages in one model: what does the second one cost the first?"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from configuration.axes import vary
from configuration.mixture_lines import MixtureLineConfig
from configuration.run_config import RunConfig
from core.errors import ConfigError
from experiments.grids.language_ablation import for_any_language

NEEDED_FIELD = "languages.second"
"""Field that a command must set."""
_AXIS = "second"
_SHARES = (0.2, 0.4, 0.8)
_SOURCE = "PAPER: open question, other languages"
_COMMON: dict[str, Any] = {
    "source": _SOURCE, "axis": _AXIS, "first": "added", "second": "none",
    "kind": ["vqa", "mc"], "quantity": "attributable",
}  # fmt: skip

hypotheses: dict[str, dict[str, Any]] = {
    "second_language_in_place_of_base": {
        **_COMMON,
        "text": "A second target language in place of base-language images does no harm (40 % in "
        "two languages, 20 % in one)",
        "along": ["target_share"],
        "first_if": {"target_share": 0.4},
        "second_if": {"target_share": 0.2},
        "test": "non_inferiority",
    },
    "second_language_in_place_of_base_80": {
        **_COMMON,
        "text": "A second target language in place of base-language images does no harm (80 % in "
        "two languages, 40 % in one)",
        "along": ["target_share"],
        "first_if": {"target_share": 0.8},
        "second_if": {"target_share": 0.4},
        "test": "non_inferiority",
    },
    "second_language_in_place_of_first": {
        **_COMMON,
        "text": "Half of the target-language images can be in a second language",
        "pool": ["target_share"],
        "test": "non_inferiority",
    },
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return three shares of target-language images, in one or equally in two languages.

    In both training stages, every line of images is divided into two halves, each with the share of
    the cell in its own language. Questions are asked in `languages.target`; exchange the languages
    for the other one. Text-only data and tasks are left out.

    Raises:
        ConfigError: If the configuration names no second language.
    """
    second = base.languages.second
    if not second:
        raise ConfigError(
            f"language_pair needs --set {NEEDED_FIELD}=CODE, for example {NEEDED_FIELD}=gl"
        )
    none: dict[str, Any] = {}
    added: dict[str, Any] = {}
    for stage in ("align", "instruct"):
        lines = getattr(base, stage).visual
        none[f"{stage}.visual"] = lines
        added[f"{stage}.visual"] = _divide(lines, second)
    return vary(
        for_any_language(base), {_AXIS: {"none": none, "added": added}}, target_share=_SHARES
    )


def _divide(lines: Mapping[str, MixtureLineConfig], second: str) -> dict[str, MixtureLineConfig]:
    """Return two lines for each one, with half of its samples in either language."""
    halves = {}
    for name, line in lines.items():
        if line.base_only:
            halves[name] = line
            continue
        half = dataclasses.replace(
            line,
            samples_per_step=line.samples_per_step / 2,
            phases=[
                dataclasses.replace(phase, samples_per_step=phase.samples_per_step / 2)
                if phase.samples_per_step
                else phase
                for phase in line.phases
            ],
        )
        halves[name] = half
        halves[f"{name}_{second}"] = dataclasses.replace(half, language=second)
    return halves

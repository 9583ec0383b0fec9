"""Share of target-language data in each stage: the share study of Centurio with one language.

Centurio (arXiv 2501.05122, ACL 2025) varies the share of English in the instruction data of a model
without pre-training (its RQ2), and then the share of English in the image captions of pre-training
while half of the instruction data are English (its RQ3). There, 99 languages share the rest; here,
the target language of the profile has all of it. `docs/guides/experiments.md` lists what differs.
"""

from typing import Any

from configuration.axes import vary
from configuration.run_config import RunConfig, Stages

_ALIGNMENT = "alignment"
_HALF = 0.5
INSTRUCT_SHARES = (0.1, 0.25, _HALF, 0.75, 0.9, 0.99)
"""Target-language shares of stage 2: 90, 75, 50, 25, 10 and 1 % English in the paper."""
ALIGN_SHARES = {"base": 0.0, "half": _HALF, "target": 0.99}
"""Target-language shares of stage 1: 100, 50 and 1 % English in the paper."""
_RQ2 = "Centurio, RQ2 (table 2, tier of Basque or English)"
_RQ3 = "Centurio, RQ3 (table 3, tier of Basque or English)"


def _claim(axis: str, text: str, first: Any, second: Any, **more: Any) -> dict[str, Any]:
    claim = {"text": text, "axis": axis, "first": first, "second": second}
    return {**claim, "quantity": "attributable", "test": "superiority", **more}


def _share(text: str, first: float, second: float | str, **more: Any) -> dict[str, Any]:
    return _claim("target_share", text, first, second, only_if={_ALIGNMENT: "none"}, **more)


def _sufficient(first: float, **more: Any) -> dict[str, Any]:
    text = "Without stage 1, a share of {first} in stage 2 is sufficient"
    return _share(text, first, "best", test="non_inferiority", relative_margin=0.1, **more)


def _aligned(text: str, first: str, second: str, **more: Any) -> dict[str, Any]:
    return _claim(_ALIGNMENT, text, first, second, **more)


hypotheses: dict[str, dict[str, Any]] = {
    "centurio_half_sufficient": _sufficient(
        _HALF, source=f"{_RQ2}: half English gives the most balanced results"
    ),
    "centurio_quarter_sufficient": _sufficient(
        0.25, source=f"{_RQ2}: 25 to 50 % of non-English data suffice"
    ),
    "centurio_tenth_too_little": _share(
        "Without stage 1, a share of {first} in stage 2 is better than {second}",
        _HALF, 0.1, source=f"{_RQ2}: 28.9 at 50 % English, 26.9 at 90 %",
    ),
    "centurio_all_too_much": _share(
        "Without stage 1, a share of {first} in stage 2 is better than {second}",
        _HALF, 0.99, source=f"{_RQ2}: 28.9 at 50 % English, 27.1 at 1 %",
    ),
    "centurio_base_language_kept": _share(
        "Without stage 1, a share of {first} in stage 2 does not reduce the accuracy in the base "
        "language below that of {second}",
        _HALF, 0.1, test="non_inferiority", language="base",
        source=f"{_RQ2}: English 52.6 at 50 % English, 54.8 at 90 %; the margin is 3 points",
    ),
    "centurio_align_both_languages": _aligned(
        "Both languages in stage 1 are better than the base language alone",
        "half", "base", source=f"{_RQ3}: 30.8 with 50 % English, 29.4 with English only",
    ),
    "centurio_align_saturates": _aligned(
        "Both languages in stage 1 are not inferior to the target language (almost) alone",
        "half", "target", test="non_inferiority",
        source=f"{_RQ3}: 30.8 with 50 % English, 31.2 with 1 %",
    ),
    "centurio_align_helps_base": _aligned(
        "Stage 1 in the base language improves the accuracy in the base language",
        "base", "none", language="base",
        source=f"{_RQ3}: English 55.2 with English only, 52.6 without pre-training",
    ),
    "centurio_align_keeps_base": _aligned(
        "Both languages in stage 1 do not reduce the accuracy in the base language",
        "half", "base", test="non_inferiority", language="base",
        source=f"{_RQ3}: English 54.9 with 50 % English, 55.2 with English only",
    ),
}  # fmt: skip
"""Registered before any cell was trained; the figures of the paper are averages over its tasks."""


def cells(base: RunConfig) -> list[RunConfig]:
    """Return six shares of stage 2 without stage 1, and three shares of stage 1 before one half."""
    none = {"none": {"cell.stages": Stages.INSTRUCT_ONLY}}
    aligned = {
        name: {"cell.stages": Stages.BOTH, "align.target_share": share}
        for name, share in ALIGN_SHARES.items()
    }
    return [
        *vary(base, {_ALIGNMENT: none}, target_share=INSTRUCT_SHARES),
        *vary(base, {_ALIGNMENT: aligned}, target_share=(_HALF,)),
    ]

"""No target-language images at all: what transfers? With and without text, for every backbone."""

from typing import Any

from configuration.axes import vary
from configuration.run_config import RunConfig

_IMAGES, _NONE = "images", "none"
_SHARES = (0.2, 1.0)
"""Shares of stage 2 with which cells without target-language images are compared."""
_NAMES = ["name", "neighbour"]
"""Question types of the embedded benchmark whose answers are names of things."""
_OTHER_TYPES = ["category", "is_category", "is_shown", "count_name", "count_things", "position"]
"""Question types whose answers are shared by many images."""
_SOURCE = "PAPER: open question, no target-language images at all"


def _without(second: Any, **fields: Any) -> dict[str, Any]:
    """Return a hypothesis about the cells without target-language images."""
    return {"source": _SOURCE, "axis": _IMAGES, "first": _NONE, "second": second, **fields}


hypotheses: dict[str, dict[str, Any]] = {
    "zero_images_see": _without(
        "blind",
        text="Without target-language images, answers are better than with a blank image",
        kind=["vqa", "mc"],
        test="superiority",
    ),
    "zero_images_beat_majority": _without(
        "majority",
        text="Without target-language images, answers are better than the most frequent answer",
        kind=["vqa", "mc"],
        test="superiority",
    ),
    "zero_images_suffice": _without(
        "best",
        text="Training without target-language images is sufficient",
        along=["target_share"],
        kind=["vqa", "mc"],
        quantity="attributable",
        relative_margin=0.1,
        test="non_inferiority",
    ),
    "zero_images_names": _without(
        "blind",
        text="Without target-language images, names of things transfer",
        pool=["text_only"],
        population={"question_types": _NAMES},
        test="superiority",
    ),
    "zero_images_other_types": _without(
        "blind",
        text="Without target-language images, answers other than names transfer",
        pool=["text_only"],
        population={"question_types": _OTHER_TYPES},
        test="superiority",
    ),
    "zero_images_cost_names_more": _without(
        "share_20",
        text="Training without target-language images costs less on other questions than on names",
        along=["target_share"],
        pool=["text_only"],
        population={"question_types": _OTHER_TYPES},
        contrast={"question_types": _NAMES},
        quantity="attributable",
        test="superiority",
    ),
    "zero_images_stage_1_helps": {
        **_without(_NONE, pool=["text_only"], quantity="attributable", test="superiority"),
        "text": "Target-language images in stage 1 alone improve the answers",
        "first": "stage_1",
    },
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return four amounts of target-language images, with and without text, for every backbone.

    `none` has no such image in either stage and `stage_1` has them in stage 1 only. The others are
    cells of `full_grid`, whose results are used where they exist.
    """
    images: dict[str, dict[str, Any]] = {
        _NONE: {"align.target_share": 0.0, "cell.target_share": 0.0},
        "stage_1": {"cell.target_share": 0.0},
        **{f"share_{100 * share:g}": {"cell.target_share": share} for share in _SHARES},
    }
    return vary(base, {_IMAGES: images}, backbone=base.suitable_backbones, text_only=(False, True))

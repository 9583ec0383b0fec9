"""Images in each language, text-only data, steps of stage 2: how much does each of them add?"""

import dataclasses
from typing import Any

from configuration.axes import vary
from configuration.mixture import expected_manifests
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from core.errors import ConfigError
from evaluation.retention import RetentionConfig
from pipeline.mixture_checks import count_different_images
from pipeline.stages.instruct import InstructStage

_UNITS = 12
"""Parts into which the images of stage 2 are divided."""
_LOW, _MIDDLE, _HIGH = 1, 2, 4
"""Units of target-language or of base-language images; shares from 20 to 80 %."""
_SHORT, _MEDIUM, _LONG = 1, 2, 3
"""Thirds of the steps of stage 2."""
DESIGN = (
    (_HIGH, _HIGH, _LONG, False),
    (_HIGH, _HIGH, _SHORT, False),
    (_HIGH, _LOW, _LONG, False),
    (_HIGH, _LOW, _SHORT, False),
    (_LOW, _HIGH, _LONG, False),
    (_LOW, _HIGH, _SHORT, False),
    (_LOW, _LOW, _LONG, False),
    (_LOW, _LOW, _SHORT, False),
    (_MIDDLE, _MIDDLE, _MEDIUM, False),
    (_MIDDLE, _MIDDLE, _MEDIUM, True),
    (_HIGH, _MIDDLE, _MEDIUM, True),
    (_LOW, _MIDDLE, _MEDIUM, True),
    (_MIDDLE, _HIGH, _MEDIUM, True),
    (_MIDDLE, _LOW, _MEDIUM, True),
    (_MIDDLE, _MIDDLE, _LONG, True),
    (_MIDDLE, _MIDDLE, _SHORT, True),
)
"""Images in the target and in the base language, steps, and text-only data of each cell.

A face-centred central composite design (Box and Wilson 1951), 16 of 54 combinations: eight corners,
a centre, and every amount alone through the centre. Corners have no text-only data and the others
do, so that both have all values of every axis; the centre is trained with and without. Every amount
has five pairs of cells that differ in nothing else, which decide its claims.
"""
_SOURCE = "open question: what is worth paying for, images in either language, text or steps"
_IMAGES, _OTHERS, _STEPS, _TEXT = (
    "target_samples", "base_samples", "instruct.num_steps", "text_only",
)  # fmt: skip

hypotheses: dict[str, dict[str, Any] | str] = {
    "more_target_images_help": {
        "text": "{first} in the target language are better than {second}, everything else equal",
        "source": _SOURCE,
        "axis": _IMAGES,
        "first": "first",
        "second": "others",
        "pool": [_OTHERS, _STEPS, _TEXT],
        "quantity": "attributable",
        "test": "superiority",
    },
    "more_base_images_no_harm": {
        "text": "{first} in the base language do no harm compared with {second}, although they "
        "lower the share of the target language",
        "source": _SOURCE,
        "axis": _OTHERS,
        "first": "first",
        "second": "others",
        "pool": [_IMAGES, _STEPS, _TEXT],
        "quantity": "attributable",
        "relative_margin": 0.1,
        "test": "non_inferiority",
    },
    "more_steps_help": {
        "text": "{first} steps of stage 2 are better than {second} on the same data",
        "source": _SOURCE,
        "axis": _STEPS,
        "first": "first",
        "second": "others",
        "pool": [_IMAGES, _OTHERS, _TEXT],
        "quantity": "attributable",
        "test": "superiority",
    },
    "more_target_same_total": "the numbers of images in total are not equal in this grid",
    "more_target_same_base": "the steps do not follow the number of images in this grid",
    "lower_share_same_target": "the steps do not follow the number of images in this grid",
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return sixteen cells. Text-only tasks are left out; `mix_ablation` measures them.

    Raises:
        ConfigError: If stage 2 is not trained or has too few images or steps.
    """
    stage = InstructStage.from_config(base)
    if stage is None:
        raise ConfigError(
            "response_surface varies stage 2, but cell.stages=align_only; set it to both"
        )
    sizes = {path: source.num_samples for path, (source, _) in expected_manifests(base).items()}
    third = stage.num_steps // _LONG
    shortest = dataclasses.replace(stage, num_steps=max(1, third))
    unit = min(
        count_different_images(stage, sizes) // _UNITS,
        count_different_images(shortest, sizes) // (2 * _HIGH),  # it sees the largest set, too
    )
    if unit < 1 or third < 1:
        raise ConfigError(
            f"response_surface needs at least {_UNITS} images and {_LONG} steps in stage 2, but "
            f"instruct.num_steps={stage.num_steps}; raise it"
        )
    base = replace_fields(base, {"retention": RetentionConfig()})
    return [
        config
        for target, others, steps, has_text in DESIGN
        for config in vary(
            base,
            {_STEPS: (steps * third,)},
            target_samples=(target * unit,),
            base_samples=(others * unit,),
            text_only=(has_text,),
        )
    ]

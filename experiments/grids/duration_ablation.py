"""Steps of both stages, 1/8 to 2 times: is training long enough, and for which share?"""

import math
from typing import Any

from configuration.axes import vary
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig, TrainConfig
from core.errors import ConfigError
from evaluation.retention import RetentionConfig
from lightning_modules.optim import first_decay_step

FACTORS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Lengths of a stage relative to the profile's."""
_SHARES = (0.2, 0.4, 1.0)
"""The share that is claimed to suffice, twice that, and everything."""
DECAY_FRACTION = 0.2
"""Last fraction of every length over which the rate decreases. DEVIATION: profiles use a cosine."""
ALIGN, INSTRUCT = "align_length", "instruct_length"
"""Axes: lengths of stages 1 and 2."""
_SOURCE = "PAPER: next check, longer training"

hypotheses: dict[str, dict[str, Any]] = {
    "longer_training_closes_share_gap": {
        "text": "Longer training helps a share of {first} more than {second}",
        "source": _SOURCE,
        "axis": "target_share",
        "first": 0.2,
        "second": 1.0,
        "only_if": {INSTRUCT: "x2"},
        "minus": {INSTRUCT: "x0.25"},
        "quantity": "attributable",
        "test": "superiority",
    },
    "longer_training_keeps_share_answer": {
        "text": "Twice the steps of stage 2 do not change the gap between {first} and {second}",
        "source": _SOURCE,
        "axis": "target_share",
        "first": 0.2,
        "second": 1.0,
        "only_if": {INSTRUCT: "x2"},
        "minus": {INSTRUCT: "x1"},
        "quantity": "attributable",
        "test": "equivalence",
    },
    "stage_1_long_enough": {
        "text": "Stage 1 is long enough: its length {first} and twice that are equivalent",
        "source": _SOURCE,
        "axis": ALIGN,
        "first": "x1",
        "second": "x2",
        "pool": ["target_share"],
        "kind": ["vqa", "mc"],
        "quantity": "attributable",
        "test": "equivalence",
    },
    "stage_1_eighth_enough": {
        "text": "An eighth of the steps of stage 1 is enough",
        "source": _SOURCE,
        "axis": ALIGN,
        "first": "x0.125",
        "second": "x1",
        "pool": ["target_share"],
        "quantity": "attributable",
        "test": "non_inferiority",
    },
    "stage_2_long_enough": {
        "text": "Stage 2 is long enough: its length {first} and twice that are equivalent",
        "source": _SOURCE,
        "axis": INSTRUCT,
        "first": "x1",
        "second": "x2",
        "pool": ["target_share"],
        "kind": ["vqa", "mc"],
        "quantity": "attributable",
        "test": "equivalence",
    },
    "more_share_at_equal_compute": {
        "text": "At equal compute, a share of {first} is better than {second}",
        "source": _SOURCE,
        "axis": "target_share",
        "first": 0.4,
        "second": 0.2,
        "only_if": {ALIGN: "x1"},
        "pool": [INSTRUCT],
        "quantity": "attributable",
        "test": "superiority",
    },
    "more_share_instead_of_more_steps": {
        "text": "A share of {first} is not worse than {second} with twice the compute, at as many "
        "target-language samples",
        "source": _SOURCE,
        "axis": "target_share",
        "first": 0.4,
        "second": 0.2,
        "along": [INSTRUCT],
        "first_if": {INSTRUCT: "x1"},
        "second_if": {INSTRUCT: "x2"},
        "quantity": "attributable",
        "test": "non_inferiority",
    },
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return every length of stage 2 at three shares, and every length of stage 1 at two of them.

    All lengths of a stage continue from one training at a constant rate, its trunk. Where the
    length of stage 1 varies, stage 2 has a trunk of its own for no cell: it is trained as a whole,
    with the same schedule. Text-only tasks are left out, whose scoring would take longer than the
    training.
    """
    base, points = with_trunks(base)
    aligned = {
        name: {"align.num_steps": steps, "instruct.branch_points": points if name == "x1" else []}
        for name, steps in lengths(base.align).items()
    }
    instructed = {
        name: {"instruct.num_steps": steps} for name, steps in lengths(base.instruct).items()
    }
    whole = {name: values for name, values in aligned.items() if name != "x1"}
    return [
        *vary(base, {ALIGN: {"x1": aligned["x1"]}, INSTRUCT: instructed}, target_share=_SHARES),
        *vary(
            base,
            {ALIGN: whole, INSTRUCT: {"x1": instructed["x1"]}},
            target_share=(_SHARES[0], _SHARES[-1]),
        ),
    ]


def lengths(stage: TrainConfig) -> dict[str, int]:
    """Return the names of the lengths of a stage and their steps."""
    return {f"x{factor:g}": max(1, round(factor * stage.num_steps)) for factor in FACTORS}


def with_trunks(base: RunConfig) -> tuple[RunConfig, list[int]]:
    """Return a configuration whose stages leave trunks, and the branch points of stage 2.

    Raises:
        ConfigError: If a stage has too few steps for an eighth of them to have a schedule.
    """
    values: dict[str, Any] = {"retention": RetentionConfig()}
    points: list[int] = []
    for name, stage in (("align", base.align), ("instruct", base.instruct)):
        warmup = math.ceil(stage.optim.warmup_fraction * stage.num_steps)
        optim = {"warmup_steps": warmup, "decay_fraction": DECAY_FRACTION}
        schedule = replace_fields(base, {f"{name}.optim.{key}": v for key, v in optim.items()})
        found = getattr(schedule, name).optim
        points = sorted({first_decay_step(found, steps) for steps in lengths(stage).values()})
        if len(points) < len(FACTORS) or points[0] < max(1, warmup):
            raise ConfigError(
                f"{name}.num_steps={stage.num_steps} is too short: an eighth of it would leave its "
                f"trunk at step {points[0]}, with a warm-up of {warmup}; raise it"
            )
        values |= {f"{name}.optim.{key}": value for key, value in optim.items()}
        values[f"{name}.branch_points"] = points
    return replace_fields(base, values), points

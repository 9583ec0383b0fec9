"""Trunk with branches, or a full cosine per length: do both schedules give the same answers?"""

from typing import Any

from configuration.axes import vary
from configuration.run_config import RunConfig
from experiments.grids.duration_ablation import INSTRUCT, lengths, with_trunks

_SHARE = 0.2
_SCHEDULE = "schedule"

hypotheses: dict[str, dict[str, Any]] = {
    "schedules_alike": {
        "text": "Branches of a trunk and a full schedule are equivalent",
        "source": "check of duration_ablation: its lengths share a training at a constant rate",
        "axis": _SCHEDULE,
        "first": "branches",
        "second": "full",
        "kind": ["vqa", "mc"],
        "test": "equivalence",
    },
    "schedules_alike_on_average": {
        "text": "Branches of a trunk and a full schedule are equivalent on average over lengths",
        "source": "check of duration_ablation: its lengths share a training at a constant rate",
        "axis": _SCHEDULE,
        "first": "branches",
        "second": "full",
        "pool": [INSTRUCT],
        "kind": ["vqa", "mc"],
        "test": "equivalence",
    },
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return both schedules for every length of stage 2, at one share.

    `branches` are cells of `duration_ablation`. `full` has the schedule of the profile in both
    stages, which is a cosine over the whole length.
    """
    trunks, points = with_trunks(base)
    steps = lengths(base.instruct)
    own = {stage: getattr(trunks, stage).optim for stage in ("align", "instruct")}
    branches: dict[str, Any] = {
        "align.branch_points": trunks.align.branch_points,
        "instruct.branch_points": points,
    }
    full: dict[str, Any] = {name: [] for name in branches}
    for stage, optim in own.items():
        for name in ("warmup_steps", "decay_fraction"):
            branches[f"{stage}.optim.{name}"] = getattr(optim, name)
            full[f"{stage}.optim.{name}"] = getattr(getattr(base, stage).optim, name)
    return vary(
        trunks,
        {
            _SCHEDULE: {"branches": branches, "full": full},
            INSTRUCT: {name: {"instruct.num_steps": number} for name, number in steps.items()},
        },
        target_share=(_SHARE,),
    )

"""Learning rate or length of training: which limits the accuracy? An example of two free axes."""

from typing import Any

from configuration.axes import vary
from configuration.run_config import RunConfig

_RATE, _LENGTH = "instruct.optim.lr", "length"
_RATES = (0.25, 1.0, 4.0)
"""Learning rates of stage 2 relative to the profile's."""

hypotheses: dict[str, dict[str, Any]] = {
    "full_length_better": {
        "text": "The {first} length is better than the {second} length",
        "source": "open question: is the training of the profile long enough?",
        "axis": _LENGTH,
        "first": "full",
        "second": "half",
        "pool": [_RATE],
        "quantity": "attributable",
        "test": "superiority",
    }
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return six cells: three learning rates of stage 2, and half of the steps of both stages."""
    half = {f"{name}.num_steps": max(1, stage.num_steps // 2)
            for name, stage in (("align", base.align), ("instruct", base.instruct))}  # fmt: skip
    rates = tuple(base.instruct.optim.lr * factor for factor in _RATES)
    return vary(base, {_LENGTH: {"half": half, "full": {}}, _RATE: rates})

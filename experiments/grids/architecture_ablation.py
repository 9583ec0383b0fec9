"""Architectures at equal data and steps: late fusion, resampler, adapters, single stream?"""

from typing import Any

from configuration.axes import vary
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from models.connector import connector_kinds, get_connector_class

hypotheses: dict[str, dict[str, Any]] = {
    "linear_suffices": {
        "text": "The {first} architecture is not inferior to the {second} architecture",
        "source": "PAPER: next check, architectures other than a connector between two models",
        "axis": "architecture",
        "first": "linear",
        "second": "others",
        "quantity": "attributable",
        "test": "non_inferiority",
    }
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return one cell per architecture; the paper's second next check asks for them."""
    return vary(uncompiled(base), {"architecture": variants(base)})


def uncompiled(base: RunConfig) -> RunConfig:
    """Return a configuration without compiled blocks, which not every architecture supports."""
    stages = ("align", "instruct")
    return replace_fields(base, {f"{stage}.compute.compile_blocks": False for stage in stages})


def variants(base: RunConfig) -> dict[str, dict[str, Any]]:
    """Return what every architecture sets, by its name.

    One learning rate does not suit all: a profile has that of a linear connector. Where stage 2
    trains the connector alone, it does so at the rate of stage 1 if that is larger, as the rate
    for a whole language model would hardly change new layers.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in connector_kinds():
        connector = get_connector_class(kind)
        rate = base.align.optim.lr * connector.relative_lr
        found[kind] = {"model.connector.kind": kind, "align.optim.lr": rate}
        if not connector.trains_language_model:
            found[kind]["instruct.optim.lr"] = max(rate, base.instruct.optim.lr)
    return found

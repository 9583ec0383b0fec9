"""The product of named axes: how experiment files say which cells they want."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from configuration.run_config import RunConfig


def vary(base: RunConfig, **axes: Sequence[Any]) -> list[RunConfig]:
    """One cell per combination of values; the last axis varies fastest.

    Args:
        base: the configuration that all cells share.
        axes: field of `CellConfig` -> its values.
    """
    return [
        dataclasses.replace(
            base, cell=dataclasses.replace(base.cell, **dict(zip(axes, values, strict=True)))
        )
        for values in itertools.product(*axes.values())
    ]

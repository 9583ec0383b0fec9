"""The cells that a hypothesis compares in grids over free axes and named variants."""

import dataclasses
from pathlib import Path

import pytest

from configuration.axes import GridCell, name_cells, vary
from configuration.run_config import RunConfig
from core.config import load_config
from reporting.claims.claim_cells import ClaimCells, select_cells
from reporting.claims.hypotheses_schema import Comparison, Hypothesis
from reporting.settings import configured_axes

TRAINING = {"short": {}, "long": {"align.num_steps": 600, "instruct.num_steps": 1800}}
LONGER = Hypothesis(
    text="{first} is better than {second}", source="test", axis="training",
    first="long", second="short", test=Comparison.SUPERIORITY,
)  # fmt: skip


@pytest.fixture(scope="module")
def cells() -> tuple[GridCell, ...]:
    base = load_config(RunConfig, Path("configs/embedded.yaml"))
    return name_cells(vary(base, {"training": TRAINING, "instruct.optim.lr": (1e-3, 1e-4)}))


def claims(cells: tuple[GridCell, ...], hypothesis: Hypothesis) -> list[ClaimCells] | str:
    planned = [configured_axes(cell.axes) for cell in cells]
    fields = {configured_axes(cell.axes): cell.fields for cell in cells}
    return select_cells(hypothesis, planned, {}, fields)


def test_variants_are_compared_although_they_change_several_fields(
    cells: tuple[GridCell, ...],
) -> None:
    short, _, long, _ = (configured_axes(cell.axes) for cell in cells)
    found = claims(cells, LONGER)
    assert found[0].pairs == ((long, short),)
    assert len(found) == 2
    (pooled,) = claims(cells, dataclasses.replace(LONGER, pool=["instruct.optim.lr"]))
    assert len(pooled.pairs) == 2


def test_fields_of_variants_are_conditions(cells: tuple[GridCell, ...]) -> None:
    rate = dataclasses.replace(
        LONGER, axis="instruct.optim.lr", first="1e-3", second="1e-4",
        only_if={"instruct.num_steps": 1800},
    )  # fmt: skip
    (claim,) = claims(cells, rate)
    assert (claim.first, claim.second) == (1e-3, 1e-4)
    assert dict(claim.pairs[0][0])["training"] == "long"
    steps = dataclasses.replace(LONGER, axis="instruct.num_steps", first=1800, second=900)
    assert claims(cells, steps) == (
        "no cell has the axis instruct.num_steps, which named variants set"
    )

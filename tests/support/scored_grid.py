"""Fake grids whose cells have given scores, and the claims about them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from evaluation.benchmarks.predictions import read_predictions, write_predictions
from evaluation.retention import TaskItems, TaskScore, save_retention
from reporting.claims.claim import Claim, ClaimResults
from reporting.claims.preregistration import check_registration
from reporting.records import GridRecord, load_grid
from reporting.series import View, view_of
from reporting.summary import summary
from tests.support import fake_grid

_NUM_IMAGES = 60
TEXT_MANIFEST = "data/text_eu.manifest.json"
"""Manifest of the texts that `write_retention` scores."""
_SHARES = (0.0, 0.2, 1.0)

Scorer = Callable[[dict[str, Any], dict[str, Any], np.random.Generator], tuple[float, float]]
"""Axes of a cell, a row, and randomness -> score and blind score."""


def three_shares(seeds: tuple[int, ...] = (0,)) -> list[dict[str, Any]]:
    """Return the cells of the mixture grid at three shares."""
    return [axes for axes in fake_grid.mix_axes(seeds) if axes["target_share"] in _SHARES]


def scored_grid(
    root: Path, scorer: Scorer | None = None, *, cells: list[dict[str, Any]] | None = None,
    **fields: object,
) -> tuple[GridRecord, View]:  # fmt: skip
    """Make a grid whose cells have the given scores and a majority score of 0.2."""
    folder = fake_grid.make_grid(root, cells=cells or three_shares(), num_images=_NUM_IMAGES)
    about = {**json.loads((folder / "grid.json").read_text()), **fields}
    (folder / "grid.json").write_text(json.dumps(about))
    for number, cell in enumerate(about["cells"] if scorer else ()):
        path = root / "store" / "evaluate" / cell["stages"]["evaluate"] / "result"
        rescore(path / "predictions.parquet", scorer, cell["axes"], number)
    grid = load_grid(root, "mix_ablation", "embedded")
    return grid, view_of(grid)


def rescore(path: Path, scorer: Any, axes: dict[str, Any], number: int) -> None:
    """Replace the scores, blind scores and majority scores of one evaluation."""
    table, rng = read_predictions(path), np.random.default_rng(number)
    pairs = [scorer(axes, row, rng) for row in table.to_pylist()]
    for prefix, at in (("", 0), ("blind_", 1)):
        for column in ("score", "score_lmms", "score_aware"):
            name = f"{prefix}{column}"
            field = table.schema.field(name)
            values = pa.array([pair[at] for pair in pairs], field.type)
            table = table.set_column(table.schema.get_field_index(name), field, values)
    field = table.schema.field("majority_score")
    majority = pa.array([0.2] * table.num_rows, field.type)
    table = table.set_column(table.schema.get_field_index("majority_score"), field, majority)
    write_predictions(path, table)


def claim_of(results: ClaimResults, name: str, text: str = "") -> Claim:
    """Return the first claim of a hypothesis whose text contains some words."""
    return next(c for c in results.claims if c.name == name and text in c.text)


def sees(share: float, blind: float) -> Scorer:
    """Answer a share of the questions with the image and another one without it."""
    return lambda axes, row, rng: (float(rng.random() < share), float(rng.random() < blind))


def write_retention(
    root: Path, grid: GridRecord, cell_id: str, kind: str, values: tuple[float, ...]
) -> None:
    """Write bits per byte of the source text_eu for one cell (kind backbone or retention)."""
    folder = root / "store" / kind / f"{kind}{cell_id}"
    items = TaskItems(metric="bits_per_byte", values=values, weights=(10.0,) * len(values))
    score = TaskScore(metric="bits_per_byte", value=float(np.mean(values)), stderr=None,
                      n=len(values), num_fewshot=0, num_truncated=0, items=items)  # fmt: skip
    (folder / "result").mkdir(parents=True)
    save_retention({"text:text_eu": score}, folder / "result")
    about = {"kind": kind, "config": {"texts": {"text:text_eu": TEXT_MANIFEST}}}
    (folder / "stage.json").write_text(json.dumps(about))
    path = grid.folder / "grid.json"
    about = json.loads(path.read_text())
    for cell in about["cells"]:
        if cell["cell_id"] == cell_id:
            cell["stages"][kind] = folder.name
    path.write_text(json.dumps(about))


def opening(grid: GridRecord, view: View, claims: Sequence[Claim]) -> str:
    """Return the sentences of a report's opening and about its figures."""
    found = summary(grid, view, claims, check_registration(grid))
    return " ".join((*found.sentences, *found.observations))

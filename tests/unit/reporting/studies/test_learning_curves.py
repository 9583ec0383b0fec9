"""Learning curves of a grid whose cells differ in the length of a stage and share a trunk."""

import json
from pathlib import Path
from typing import Any

import pytest

from reporting.records import load_grid
from reporting.series import view_of
from reporting.studies.learning_curves import section
from tests.support import fake_grid

_LENGTHS = {"x0.5": (50, 40), "x1": (100, 80), "x2": (200, 160)}
"""Name -> steps, and steps at which the length leaves the trunk."""


def _write_log(folder: Path, first: int, last: int) -> None:
    lines = [
        {"step": step, "time": 0.0, "metrics": {f"loss_by_language/{code}": 5 / (step + 1)
                                                for code in ("en", "eu")}}
        for step in range(first + 9, last, 10)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _length_grid(root: Path, *, width: int = 0) -> Any:
    """Write a grid of three lengths of stage 2; with a width, their models differ as well."""
    cells = [
        {"target_share": 0.2, "text_only": False, "backbone": "general", "stages": "both",
         "seed": 0, "length": name}
        for name in _LENGTHS
    ]  # fmt: skip
    folder = fake_grid.make_grid(root, cells=cells, num_images=30)
    about = json.loads((folder / "grid.json").read_text())
    trunk = root / "store" / "instruct_trunk" / "trunk"
    trunk.mkdir(parents=True)
    config = {"num_steps": 160}
    (trunk / "stage.json").write_text(json.dumps({"kind": "instruct_trunk", "config": config}))
    (trunk / "status.json").write_text(json.dumps({"state": "done", "wall_s": 16.0}))
    _write_log(trunk, 0, 160)
    for number, cell in enumerate(about["cells"]):
        steps, branch = _LENGTHS[cell["axes"]["length"]]
        run = root / "store" / "instruct" / cell["stages"]["instruct"]
        stage = json.loads((run / "stage.json").read_text())
        stage["config"] = {"num_steps": steps, "branch_at": branch, "width": width * number}
        (run / "stage.json").write_text(json.dumps(stage))
        _write_log(run, branch, steps)
        cell["stages"]["instruct_trunk"] = "trunk"
    (folder / "grid.json").write_text(json.dumps(about))
    return load_grid(root, "mix_ablation", "embedded")


@pytest.mark.slow
def test_lengths_of_a_trunk_are_drawn_and_their_cost_is_stated(tmp_path: Path) -> None:
    grid = _length_grid(tmp_path)
    found = section(grid, view_of(grid))
    assert found is not None
    assert [figure.title.split(" of ")[0] for figure in found.figures] == [
        "Loss", "VQA accuracy over the length",
    ]  # fmt: skip
    (table,) = found.tables
    assert [row[:2] for row in table.rows] == [("50", "10"), ("100", "20"), ("200", "40")]
    # 160 steps of the trunk and 10 + 20 + 40 of the branches, for a longest length of 200.
    assert "3 lengths took 230 optimizer steps, 1.15 times" in found.sentences[0]
    assert "a full schedule for each would take 350" in found.sentences[0]


@pytest.mark.slow
def test_models_of_different_kinds_are_no_learning_curve(tmp_path: Path) -> None:
    grid = _length_grid(tmp_path, width=1)
    assert section(grid, view_of(grid)) is None

"""Results as pandas tables, and the notebook that shows them."""

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import DataError
from evaluation.benchmarks.predictions import read_predictions
from reporting.frames import load_questions, load_scores
from reporting.records import load_grid
from tests.support import fake_grid

NOTEBOOK = Path(__file__).parents[3] / "docs" / "notebooks" / "results.ipynb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `mlruns` has a grid with one unfinished cell."""
    folder = tmp_path_factory.mktemp("frames")
    cells = [axes for axes in fake_grid.mix_axes() if axes["target_share"] in (0.0, 0.2, 1.0)]
    fake_grid.make_grid(folder / "mlruns", cells=cells, num_images=20, unfinished=1)
    return folder


def test_tables_have_every_finished_cell(folder: Path) -> None:
    root = folder / "mlruns"
    grid = load_grid(root, "mix_ablation", "embedded")
    finished = {cell.cell_id: cell for cell in grid.cells if cell.evaluation is not None}
    assert len(finished) == len(grid.cells) - 1
    message = r"1 of 6 cells are not finished .*: "
    with pytest.warns(UserWarning, match=message):
        scores = load_scores("mix_ablation", root=root)
    with pytest.warns(UserWarning, match=message):
        questions = load_questions("mix_ablation", root=root)
    assert {*scores["cell_id"]} == {*questions["cell_id"]} == {*finished}
    for cell_id, cell in finished.items():
        assert cell.evaluation is not None
        rows = questions[questions["cell_id"] == cell_id]
        expected = read_predictions(cell.evaluation.predictions)
        assert rows["output"].tolist() == expected["output"].to_pylist()
        assert {*rows["target_share"]} == {cell.axes["target_share"]}
        own = scores[scores["cell_id"] == cell_id].set_index("metric")["value"]
        stored = cell.evaluation.scores
        assert own.to_dict() == pytest.approx({name: stored[name].value for name in stored})


def test_a_grid_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no grid"):
        load_scores("mix_ablation", root=tmp_path)
    cells = fake_grid.mix_axes()[:1]
    fake_grid.make_grid(tmp_path, cells=cells, num_images=4, unfinished=1)
    with pytest.raises(DataError, match=r"no cell of .* is finished"):
        load_questions("mix_ablation", root=tmp_path)


@pytest.mark.filterwarnings("ignore:1 of 6 cells")
def test_the_notebook_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "outputs are not stored"
            exec("".join(cell["source"]), names)
    assert len(names["wrong"]) > 0
    assert set(names["target"]["target_share"]) == {0.0, 0.2, 1.0}
    assert names["difference"].notna().all()

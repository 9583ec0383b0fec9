"""A sequential grid: start set, budget, continuation, journal and report."""

from functools import partial
from pathlib import Path

import pytest

from core.errors import DataError
from datamodules.shards.manifest import Modality
from experiments import run
from experiments.run_steps import sequential_plan
from reporting.records import load_grid
from reporting.sequential.journal import JOURNAL_NAME, Journal
from tests.support import small_world as worlds
from tests.support.doubles import write_shard, write_source

pytestmark = pytest.mark.slow
_EXPERIMENT = '''"""Which of five shares is enough?"""

from configuration.axes import vary

hypotheses = {
    "own_enough": {
        "text": "A share of {first} is sufficient", "source": "test", "axis": "target_share",
        "first": 0.4, "second": "best", "test": "non_inferiority", "margin": 0.3,
    }
}


def cells(base):
    return vary(base, target_share=(0.0, 0.4, 0.6, 0.8, 1.0))
'''
_NUM_QUESTIONS = 12


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small world with twelve yes/no questions about as many images."""
    folder = worlds.build_world(tmp_path)
    samples = []
    for at in range(_NUM_QUESTIONS):
        item = {"question_id": f"q{at}", "benchmark": "vqa", "answer_type": "yes/no",
                "question_type": "is", "question": {"en": f"Is it {at}?", "eu": f"Da {at}?"},
                "answers": {"en": ["yes"] * 10, "eu": ["bai"] * 10}}  # fmt: skip
        samples.append((f"many-{at}", {"items": [item]}, worlds.image(3000 + at)))
    entry = write_shard(folder / "data" / "many-000000.tar", samples)
    write_source(folder / "data", "many", [entry], language="en,eu", modality=Modality.BENCHMARK)
    (folder / "shares.py").write_text(_EXPERIMENT)
    monkeypatch.chdir(folder)
    return folder


def _arguments(*more: str) -> list[str]:
    return ["--exp", "shares.py", "--profile", worlds.PROFILE, "--jobs", "1", "--root", "mlruns",
            "--sequential", "--decide", "own_enough", *more, "--set", "align.num_steps=2",
            "instruct.num_steps=2", "data.benchmarks=[many]"]  # fmt: skip


def test_a_grid_stops_at_its_budget_and_continues(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No claim is closed early, so that every cell is trained."""
    study = partial(sequential_plan.SequentialStudy, certainties=(1.0, 1.0))
    monkeypatch.setattr(sequential_plan, "SequentialStudy", study)
    folder = world / "mlruns" / "grids" / "shares-tiny"
    assert run.main(_arguments("--budget", "1e-9")) == 0
    journal = Journal.load(folder)
    assert journal.end == "no further cell fits into the budget"
    assert len(journal.looks[-1]["trained"]) == 2
    assert not journal.predictions()

    assert run.main(_arguments()) == 0
    journal = Journal.load(folder)
    assert journal.end == "all claims are decided"
    assert set(journal.closed) == {"own_enough"}
    trained = journal.looks[-1]["trained"]
    predicted = journal.predictions()
    assert (len(trained), len(predicted)) == (5, 3)
    grid = load_grid(world / "mlruns", "shares", worlds.PROFILE)
    evaluations = {cell.cell_id: cell.evaluation for cell in grid.cells}
    for one in predicted:
        assert one.measured is not None
        assert evaluations[one.cell_id].started > one.time
    page = (folder / "report" / "report.html").read_text()
    assert "Sequential grid" in page
    assert "5 of 5 cells are trained" in page
    assert "registered after the evaluation" not in page

    path = folder / JOURNAL_NAME
    path.write_text(path.read_text().replace('"mean": 0', '"mean": 1', 1).replace(
        '"hours": 0', '"hours": 9', 1))  # fmt: skip
    with pytest.raises(DataError, match="was changed"):
        Journal.load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--decide", "own_enogh"], "own_enough"),
        (["--only", "share40"], "omit --only"),
        (["--budget", "0"], "positive number of hours"),
        (["--decide", "replies_in_target"], "no cell has target_share = 0.2"),
    ],
)
def test_options_that_do_not_fit_are_reported(
    world: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run.main(_arguments(*options)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (world / "mlruns" / "store").exists()

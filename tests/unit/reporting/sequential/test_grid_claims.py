"""Claims of a grid as contrasts, its journal, and advice from its surface."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, DataError
from evaluation.statistics.decisions import RelativeMargin, Verdict
from evaluation.statistics.sequential.choice import Candidate
from evaluation.statistics.sequential.study import ClaimState, Look
from evaluation.statistics.sweeps.sufficiency import enough_decision, sufficient_shares
from reporting.claims.measures import Measurements
from reporting.claims.preregistration import load_registered
from reporting.sequential.advice import Advisor, Prices
from reporting.sequential.grid_claims import PlannedCell, grid_claims, observe
from reporting.sequential.journal import JOURNAL_NAME, Journal
from reporting.sequential.section import sequential_section
from tests.support import fake_grid
from tests.support.scored_grid import scored_grid


def _score(axes, row, rng):
    right = 0.2 + 0.5 * (1 - np.exp(-axes["target_share"] / 0.3)) + 0.1 * axes["text_only"]
    return float(rng.random() < right), 0.0


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    found, _ = scored_grid(tmp_path_factory.mktemp("grid"), _score, cells=fake_grid.mix_axes())
    return found


def _claims(grid, **options):
    cells = [PlannedCell(cell_id=c.cell_id, axes=c.axes, fields=c.fields) for c in grid.cells]
    return cells, grid_claims(
        cells, load_registered(grid.folder), grid.common, target_language=grid.target_language,
        deciding_metric=grid.deciding_metric, **options,
    )  # fmt: skip


def test_the_claims_of_the_first_measure_decide(grid):
    _, found = _claims(grid)
    assert [claim.name for claim in found.claims] == ["enough 1", "enough 2", "text_only"]
    assert "text_only=True" in found.texts["enough 2"]
    assert "retention" in found.left_out["text_only_text"]
    _, chosen = _claims(grid, chosen=["text_only"])
    assert [claim.name for claim in chosen.claims] == ["text_only"]
    assert chosen.left_out["enough"] == "not named by --decide"
    with pytest.raises(ConfigError, match="text_only_text: it concerns retention"):
        _claims(grid, chosen=["text_only_text"])
    with pytest.raises(ConfigError, match="text_only"):
        _claims(grid, chosen=["text_onli"])


def test_a_grid_without_a_numeric_axis_is_refused(grid):
    cells = [PlannedCell(cell_id=c.cell_id, axes=c.axes, fields=c.fields) for c in grid.cells
             if c.axes["target_share"] == 0.2]  # fmt: skip
    with pytest.raises(ConfigError, match="numeric axis"):
        grid_claims(cells, load_registered(grid.folder), grid.common, target_language="eu",
                    deciding_metric=grid.deciding_metric)  # fmt: skip


def test_a_contrast_has_the_p_value_of_the_report(grid):
    """The claim "20 % is sufficient" of a complete grid, with the margin of the file."""
    cells, found = _claims(grid, chosen=["enough"])
    values = Measurements(grid)
    observed = observe(cells, values, found.measure)
    assert observed.points == tuple(range(12))
    claim = found.claims[0]
    below = claim.tails_below(observed.means_T[None], observed.covariance_TT, observed.df)
    rows = values.cells(found.measure)
    settings = [cell.setting for cell in cells[:6]]
    scores = np.array([(rows[setting].values + 1) / 2 for setting in settings])
    images = rows[settings[0]].images
    shares = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    blind = np.full(scores.shape, 0.5)
    result = sufficient_shares(shares, scores, images, seed=0,
                               delta=RelativeMargin(fraction=0.1, blind=blind))  # fmt: skip
    decision = enough_decision(result, 0.2)
    assert below.max() == pytest.approx(decision.p_supported, abs=0.01)
    refuted = claim.p_refuted(1 - below)[0]
    assert refuted == pytest.approx(decision.p_refuted, rel=0.3, abs=0.01)


def _look(name="a", closed=None):
    state = ClaimState(name=name, p_supported=0.2, p_refuted=0.9, closed=closed,
                       forecast={Verdict.SUPPORTED: 0.8, Verdict.REFUTED: 0.0,
                                 Verdict.UNDECIDED: 0.2})  # fmt: skip
    return Look(claims=(state,), candidates=(), is_complete=False)


def test_a_journal_is_read_back_and_its_changes_are_found(grid, tmp_path):
    journal = Journal.load(tmp_path)
    assert journal.settings is None
    journal.begin({"cells": ["x", "y", "z"], "start": ["x"], "claims": {"a": "A"}})
    journal.record_look(["x"], _look(), 1.0)
    one = Candidate(point=1, cost=2.0, reduction=0.1, explained=0.3, is_required=False,
                    mean=0.5, low=0.4, high=0.6)  # fmt: skip
    journal.predict("y", one, 3.0)
    assert Journal.load(tmp_path).pending == "y"
    journal.score("y", 0.65)
    journal.record_look(["x", "y"], _look(closed=Verdict.SUPPORTED), 3.0)
    journal.finish("done")
    again = Journal.load(tmp_path)
    assert again.lines == journal.lines
    assert again.closed == {"a": Verdict.SUPPORTED}
    assert (again.pending, again.end) == ("", "done")
    assert [one.is_inside for one in again.predictions()] == [False]

    path = tmp_path / JOURNAL_NAME
    content = path.read_bytes()
    path.write_bytes(content[:-10])  # a crash while the last line was written
    assert Journal.load(tmp_path).end == ""
    path.write_bytes(content.replace(b'"low": 0.4', b'"low": 0.1'))
    with pytest.raises(DataError, match="line 4: the line or the one before it was changed"):
        Journal.load(tmp_path)


def test_the_report_shows_the_path_and_the_savings(grid):
    cells = [cell.cell_id for cell in grid.cells]
    sha = json.loads((grid.folder / "grid.json").read_text())["registration"]["sha256"]
    journal = Journal.load(grid.folder)
    journal.begin({"cells": cells, "start": cells[:1], "claims": {"a": "Claim A"}, "level": 0.05,
                   "certainty": [0.9, 0.97], "measure": "vqa", "unit": "GPU-hours",
                   "full_hours": 12.0,
                   "hypotheses_sha256": sha})  # fmt: skip
    journal.record_look(cells[:1], _look(), 1.0)
    one = Candidate(point=1, cost=2.0, reduction=0.1, explained=0.3, is_required=False,
                    mean=0.5, low=0.4, high=0.6)  # fmt: skip
    journal.predict(cells[1], one, 3.0)
    journal.score(cells[1], 0.55)
    journal.record_look(cells[:2], _look(closed=Verdict.SUPPORTED), 3.0)
    journal.finish("all claims are decided")
    section = sequential_section(grid)
    text = " ".join(section.sentences)
    assert "2 of 12 cells are trained, with 3 of 12 planned GPU-hours (75 % less)" in text
    # The fake evaluations are older than this test, so the prediction is none.
    assert "1 predictions were registered after the evaluation of their cell had started" in text
    assert "1 of 1 measurements were inside" in text
    assert "90 or, for a claim about a mean difference, 97 % or more" in text
    assert section.looks[1].added == cells[1]
    assert section.looks[1].states[0].startswith("supported (80 % supported")
    assert section.predictions[0].result == "inside"
    (grid.folder / JOURNAL_NAME).unlink()
    assert sequential_section(grid) is None


def test_advice_is_validated_and_refused_outside_of_the_cells(grid):
    advisor = Advisor(grid)
    checked = advisor.surface.validate()
    assert checked.num_cells == 12
    assert not checked.refusal
    first = grid.cells[1].cell_id
    text = advisor.text_only(first)
    assert text.low < 0.1 < text.high
    assert (
        "no axis of this grid is a number of steps"
        in advisor.more_steps(first, 1.0, Prices(item=0.0, hour=1.0)).refusal
    )
    items = advisor.more_items(first, 10, Prices(item=0.02, hour=0.0))
    assert items.refusal or items.cost == pytest.approx(0.2)
    with pytest.raises(DataError, match="has no cell 'none'"):
        advisor.text_only("none")


def test_advice_needs_five_cells(tmp_path: Path):
    found, _ = scored_grid(tmp_path, _score, cells=fake_grid.mix_axes()[:4])
    with pytest.raises(DataError, match="4 evaluated cells"):
        Advisor(found)

"""The section of the report about people and judges."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from core.io.files import sha256_file
from evaluation.people.comparison import ComparedSystem
from evaluation.people.preferences import PreferenceRecord, PreferenceSource, save_preferences
from reporting import build
from reporting.records import load_grid
from reporting.sections.preference_rows import preference_section
from tests.support import fake_grid
from tests.support.comparisons import record_of, simulated_comparison


@pytest.mark.slow
def test_preferences_in_the_folder_of_a_grid_are_shown_by_cell(tmp_path: Path) -> None:
    fake_grid.make_grid(
        tmp_path, "backbone_ablation", cells=fake_grid.backbone_axes(), num_images=12
    )
    grid = load_grid(tmp_path, "backbone_ablation", "embedded")
    assert preference_section(grid) is None
    evaluation = grid.cells[0].evaluation
    assert evaluation is not None
    checksum = sha256_file(evaluation.predictions)
    rng = np.random.default_rng(0)
    truth = rng.choice([-1.0, 0.0, 1.0], 80)

    def record(most: int, source: PreferenceSource, rater: str) -> PreferenceRecord:
        comparison = dataclasses.replace(
            simulated_comparison(80, 20, most=most),
            first=ComparedSystem(name="general", predictions="x", sha256=checksum),
        )
        return record_of(comparison, truth, source=source, raters=(rater,))

    people = record(40, PreferenceSource.PEOPLE, "ane")
    folder = grid.folder / "preferences"
    save_preferences(folder, people)
    save_preferences(folder, record(0, PreferenceSource.JUDGE, "judge-model"))
    found = preference_section(grid)
    assert found is not None
    judge_row, people_row = sorted(found.preferences, key=lambda row: row.source, reverse=True)
    assert (judge_row.source, people_row.source) == ("judge: judge-model", "1 people")
    assert people_row.first == f"general ({grid.cells[0].cell_id})"
    assert people_row.judged == "40 judged, 20 equal, of 100"
    (agreement,) = found.agreements
    assert agreement.kappa.startswith("1.00 [")
    page = build.build_report("backbone_ablation", root=tmp_path).read_text(encoding="utf-8")
    assert "Preferences of people and judges" in page
    assert "in the manner of WildVision-Bench" in page
    assert "ane" not in people_row.source, "annotators stay anonymous in the report"

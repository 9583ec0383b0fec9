"""The page of a comparison: one self-contained HTML file, with its differences as CSV and JSON."""

import csv
import io
import json
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from core.io.files import atomic_write_text, lock_path, locked
from pipeline.store.notes import read_note
from reporting.comparison.curves import Curves, overlaid_curves
from reporting.comparison.differences import (
    PairedScores,
    amounts,
    configuration_differences,
    data_differences,
    deciding_panel,
    paired_scores,
)
from reporting.comparison.sides import Side
from reporting.page_languages.page_strings import TEMPLATE_LANGUAGE, check_page_language
from reporting.page_languages.translated_page import page_marks, write_page
from reporting.series import PANELS, Panel
from reporting.tracking.upload_notes import RUN_FILE

COMPARISON_PAGE, TABLE, VALUES = "comparison.html", "differences.csv", "differences.json"
_UI = "http://127.0.0.1:5000/#"


def build_comparison(
    sides: Sequence[Side], out: Path, *, page_language: str = TEMPLATE_LANGUAGE
) -> Path:
    """Write the page and its tables, and return the path of the page.

    Args:
        sides: At least two sides; the others are compared with the first one.
        out: Folder of the page.
        page_language: Language of the page, whose code is then in the name of its file.

    Raises:
        ConfigError: If there are no strings in the language.
        DataError: If the sides have nothing to compare.
    """
    check_page_language(page_language)
    scores = paired_scores(sides)
    with locked(lock_path(out)):
        atomic_write_text(out / TABLE, differences_csv(scores))
        atomic_write_text(out / VALUES, json.dumps(differences_json(scores), indent=1))
        page = render_comparison(sides, scores, page_language=page_language)
        return write_page(out / COMPARISON_PAGE, page, page_language)


def render_comparison(
    sides: Sequence[Side], scores: PairedScores, *, page_language: str = TEMPLATE_LANGUAGE
) -> str:
    """Return the HTML of the page in English, with the marks that a translation needs.

    Args:
        sides: The sides.
        scores: Their paired scores.
        page_language: Language of the page after its translation.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("comparison.html").render(
        sides=sides,
        scores=scores,
        summary=summary_sentences(sides, scores),
        configuration=configuration_differences(sides),
        data=data_differences(sides),
        amounts=amounts(sides),
        curves=_curves(sides),
        mlflow=mlflow_link(sides),
        csv_name=TABLE,
        json_name=VALUES,
        mark=page_marks(page_language),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )


def summary_sentences(sides: Sequence[Side], scores: PairedScores) -> list[str]:
    """Return one sentence per side about the main score in the target language."""
    panel, language = deciding_panel(sides[0].grid), sides[0].grid.target_language
    sentences = []
    for side in sides[1:]:
        rows = [
            row
            for row in scores.rows
            if row.letters[1] == side.letter
            and row.panel.key == panel.key
            and row.language == language
        ]
        higher = sum(row.is_clear and row.difference.value > 0 for row in rows)
        lower = sum(row.is_clear and row.difference.value < 0 for row in rows)
        if len(rows) == 1:
            (row,) = rows
            sentences.append(
                f"{panel.title} in {language}: {side.name} has {row.second:.1f} %, "
                f"{row.difference.value:+.1f} points compared with {sides[0].name}"
                + (
                    f" (95 % interval {row.difference.low:+.1f} to {row.difference.high:+.1f})."
                    if row.difference.low is not None and row.difference.high is not None
                    else " (too few images for an interval)."
                )
            )
        elif rows:
            sentences.append(
                f"{panel.title} in {language}: the interval of the difference excludes zero in "
                f"{higher + lower} of {len(rows)} pairs of cells; {side.name} is higher in "
                f"{higher} and lower in {lower}."
            )
    return sentences


def differences_csv(scores: PairedScores) -> str:
    """Return the paired differences as CSV, in percent and percentage points."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    rows = differences_json(scores)
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return buffer.getvalue()


def differences_json(scores: PairedScores) -> list[dict[str, object]]:
    """Return the paired differences, in percent and percentage points."""
    return [
        {
            "first": row.letters[0],
            "second": row.letters[1],
            "cells": row.place,
            "metric": row.panel.key,
            "language": row.language,
            "first_score": row.first,
            "second_score": row.second,
            "difference": row.difference.value,
            "ci_low": row.difference.low,
            "ci_high": row.difference.high,
            "num_questions": row.difference.num_items,
            "num_images": row.difference.num_clusters,
            "first_seeds": row.num_seeds[0],
            "second_seeds": row.num_seeds[1],
        }
        for row in scores.rows
    ]


def _curves(sides: Sequence[Side]) -> list[Curves]:
    if sides[0].is_cell:
        return []
    grid = sides[0].grid
    panels: list[Panel] = list(dict.fromkeys((deciding_panel(grid), *PANELS)))
    found = [
        overlaid_curves(sides, panel, language)
        for panel in panels
        for language in (grid.target_language, grid.base_language)
    ]
    return [curves for curves in found if curves is not None]


def mlflow_link(sides: Sequence[Side]) -> str:
    """Return the address of MLflow's comparison of all evaluations; empty without its database.

    It works while `python -m experiments.ui` serves the output folder of the first side.
    """
    database = sides[0].grid.folder.parent.parent / "mlflow.db"
    runs = [
        str(read_note(stage.folder / RUN_FILE).get("owner", ""))
        for side in sides
        for cell in side.cells
        if (stage := cell.evaluation) is not None
    ]
    runs = [run for run in dict.fromkeys(runs) if run]
    if not runs or not database.is_file():
        return ""
    query = "SELECT DISTINCT experiment_id FROM runs WHERE run_uuid = ?"
    experiments: list[str] = []
    try:
        with closing(sqlite3.connect(f"file:{database.resolve()}?mode=ro", uri=True)) as found:
            for run in runs:
                experiments += [str(row[0]) for row in found.execute(query, (run,))]
    except sqlite3.Error:  # the page is complete without the link
        return ""
    shown = json.dumps(runs), json.dumps(list(dict.fromkeys(experiments)))
    return f"{_UI}/compare-runs?runs={shown[0]}&experiments={shown[1]}"

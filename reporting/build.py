"""Builds the report of a grid: one static HTML page, its figures (PNG, SVG) and its scores.

The page is self-contained and needs neither a network nor a server.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from core.io.files import atomic_write_text, lock_path, locked
from pipeline.store.registration import Registration
from reporting.claims.claim_rows import claim_rows
from reporting.claims.hypotheses import decide_claims
from reporting.claims.preregistration import check_registration, load_registered
from reporting.claims.sufficiency import sufficiency_tables
from reporting.examples import gallery
from reporting.examples.errors import KINDS as ERROR_KINDS
from reporting.examples.errors import error_files, error_rows
from reporting.page_languages.page_strings import TEMPLATE_LANGUAGE, check_page_language
from reporting.page_languages.translated_page import page_marks, write_page
from reporting.records import GridRecord, load_grid
from reporting.sections import figures, tables
from reporting.sections.caveats import caveats
from reporting.sections.drawn_lines import label_line, line_keys
from reporting.sections.exposures import ENOUGH, exposure_sentences, exposure_tables
from reporting.sections.further_benchmarks import further_benchmarks
from reporting.sections.image_use import image_use_table
from reporting.sections.language_collapse import collapse_sentences
from reporting.sections.model_sizes import TITLES as SIZE_TITLES
from reporting.sections.model_sizes import size_table
from reporting.sections.out_of_domain import out_of_domain_section
from reporting.sections.preference_rows import preference_section
from reporting.sections.retention_rows import retention_table
from reporting.sequential.section import sequential_section
from reporting.series import View, view_of
from reporting.studies.study_section import study_sections
from reporting.study_facts.configuration import changed_fields, study_amounts
from reporting.study_facts.paper_tables import to_bibtex, to_latex, to_markdown
from reporting.summary import key_figures, summary

PAGE = "report.html"
_TEMPLATES = Path(__file__).parent


def build_report(  # noqa: PLR0913 - all but the first are keywords
    experiment: str,
    *,
    profile: str = "embedded",
    name: str = "",
    root: Path = Path("mlruns"),
    out: Path | None = None,
    tracked: Registration | None = None,
    page_language: str = TEMPLATE_LANGUAGE,
) -> Path:
    """Write the page, the figures and the CSV file, and return the path of the page.

    Args:
        experiment: Name of the experiment.
        profile: Profile of the grid.
        name: Name of the grid's folder, if it is not EXPERIMENT-PROFILE.
        root: Output folder of the runs.
        out: Folder of the report; defaults to `report/` in the folder of the grid.
        tracked: Registration of the hypotheses that MLflow has, to be compared with the grid's own.
        page_language: Language of the page, whose code is then in the name of its file.

    Raises:
        ConfigError: If there are no strings in the language.
        DataError: If the grid does not exist or one of its files is damaged.
    """
    check_page_language(page_language)
    grid = load_grid(root, experiment, profile, name)
    view = view_of(grid)
    folder = out or grid.folder / "report"
    with locked(lock_path(folder)):  # a second command waits
        files = figures.save_figures(grid, view, folder / "figures")
        atomic_write_text(folder / "cells.csv", tables.cells_csv(grid))
        scores = tables.score_table(grid, view)
        texts = {
            **error_files(gallery.select_cells(grid, view)),
            "scores.md": to_markdown(scores),
            "scores.tex": to_latex(scores),
            "data.bib": to_bibtex(grid),
        }
        for file, text in texts.items():
            atomic_write_text(folder / file, text)
        names = [*(str(path.relative_to(folder)) for path in files), "cells.csv", *texts]
        page = render_page(grid, view, names, tracked, page_language=page_language)
        return write_page(folder / PAGE, page, page_language)


def render_page(
    grid: GridRecord,
    view: View,
    files: Sequence[str],
    tracked: Registration | None = None,
    *,
    page_language: str = TEMPLATE_LANGUAGE,
) -> str:
    """Return the HTML of the page in English, with the marks that a translation needs.

    Args:
        grid: The grid.
        view: Its presentation.
        files: Links to the files that accompany the page.
        tracked: Registration of the hypotheses that MLflow has.
        page_language: Language of the page after its translation.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    results = decide_claims(grid, view)
    registration = check_registration(grid, tracked=tracked)
    exposures = exposure_tables(grid, view)
    groups = [(g.label, figures.page_figures(grid, view, g)) for g in figures.setting_groups(view)]
    return environment.get_template("page.html").render(
        grid=grid,
        view=view,
        summary=summary(grid, view, results.claims, registration),
        registration=registration,
        key_figures=key_figures(grid, view),
        groups=[(label, drawn) for label, drawn in groups if drawn],
        legend=[(label_line(view, key), figures.dash_of(view, key)) for key in line_keys(view)],
        claims=claim_rows(results),
        inapplicable=results.inapplicable,
        delta=100 * load_registered(grid.folder).margin,
        sequential=sequential_section(grid),
        sufficiency=sufficiency_tables(grid, view),
        studies=study_sections(grid, view),
        scores=tables.score_table(grid, view),
        sizes=size_table(grid, view),
        size_titles=SIZE_TITLES,
        below_chance=tables.below_chance_sentences(grid, view),
        likelihoods=tables.likelihood_table(grid, view),
        wordings=tables.wording_table(grid, view),
        vqa_scores=tables.vqa_score_table(grid, view),
        unanimity=tables.unanimity_sentences(grid, view),
        further=list(further_benchmarks(grid, view)),
        out_of_domain=out_of_domain_section(grid, view),
        fidelity=tables.fidelity_table(grid, view),
        collapse=collapse_sentences(grid, view),
        collapse_scores=tables.collapse_table(grid, view),
        exposures=exposures,
        exposure_sentences=exposure_sentences(exposures),
        enough_exposures=ENOUGH,
        retention=retention_table(grid),
        image_use=image_use_table(grid, view),
        gallery=gallery.build_gallery(grid, view),
        gallery_cells=[cell.cell_id for _, cell in gallery.select_cells(grid, view)],
        errors=error_rows(gallery.select_cells(grid, view), view),
        error_titles=list(ERROR_KINDS.values()),
        stages=tables.stage_rows(grid),
        preferences=preference_section(grid),
        caveats=caveats(grid, view),
        changed_fields=changed_fields(grid),
        amounts=study_amounts(grid),
        files=files,
        mark=page_marks(page_language),
        written=time.strftime("%Y-%m-%d %H:%M"),
    )

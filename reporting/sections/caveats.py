"""Limitations that a reader of a report has to know to interpret its scores."""

from collections import Counter

from reporting.claims.preregistration import has_changed
from reporting.records import GridRecord
from reporting.sections.leakage import leakage_notes
from reporting.series import TRUNCATED_PANEL, View, lines, main_panel
from reporting.settings import describe_equal_cells

_MANY_TRUNCATED = 1.0
"""Percentage of truncated replies above which they are mentioned."""


def caveats(grid: GridRecord, view: View) -> list[str]:
    """Return the limitations that apply to a grid, one sentence or two each."""
    notes = []
    missing = [cell for cell in grid.cells if cell.evaluation is None]
    if missing:
        notes.append(
            f"The grid is unfinished: {len(missing)} of {len(grid.cells)} cells have no result. "
            "'Highest' and 'best' refer to the cells that have one."
        )
    points = [p for line in lines(grid, view, main_panel(grid)) for p in line.points]
    if points:
        half = max((p.high or p.value) - (p.low or p.value) for p in points) / 2
        notes.append(
            f"Each accuracy is estimated from {points[0].n} questions about {points[0].num_images} "
            f"images, with a 95 % interval of up to {half:.1f} points to either side. The "
            "intervals cover the choice of images, not the variation between training runs."
        )
    if len(view.seeds) == 1:
        notes.append(
            "Each cell was trained with one seed, so the variation between trainings was not "
            "measured, and no claim about a recipe is decided. Replicate some cells, for example "
            f"with --replicate {_replication(grid)}."
        )
    else:
        notes.append(
            "Scores are means over the seeds of a cell; small dots show the single trainings. The "
            "intervals of scores cover the choice of images only. Claims about recipes also cover "
            "the variation between trainings, whose size is estimated from the replicated cells "
            "and assumed to be the same in all cells."
        )
    notes.append(
        "Comparisons are paired by question and clustered by image. The 5 % level holds for all "
        "claims of a column together; intervals and p-values of other sections are not corrected "
        "for their number. The majority-answer baseline is chosen with knowledge of the answers."
    )
    if grid.profile == "embedded":
        notes.append(
            "The embedded profile trains very small models on drawn images. It demonstrates the "
            "method; its scores say nothing about models of 8 billion parameters."
        )
    notes += _equal_cells(grid)
    notes += _truncated_replies(grid, view)
    notes += _skipped_samples(grid)
    notes += leakage_notes(grid)
    if has_changed(grid.folder):
        notes.append(
            "reporting/hypotheses.yaml has changed since this grid started. The claims are decided "
            "as they were registered then (hypotheses.yaml in the folder of the grid)."
        )
    if grid.git_dirty:
        notes.append(
            "The working tree had uncommitted changes, so the commit alone does not reproduce this "
            "grid."
        )
    return notes


def _replication(grid: GridRecord) -> str:
    """Return an option that replicates the first and the last cell of a grid."""
    ids = dict.fromkeys((grid.cells[0].cell_id, grid.cells[-1].cell_id))
    return " ".join(f"{cell_id}=3" for cell_id in ids)


def _equal_cells(grid: GridRecord) -> list[str]:
    """Name the cells that have the same stage runs."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for cell in grid.cells:
        addresses = tuple(sorted(stage.address for stage in cell.stages.values()))
        groups.setdefault(addresses, []).append(cell.cell_id)
    return [describe_equal_cells(cells) for cells in groups.values() if len(cells) > 1]


def _truncated_replies(grid: GridRecord, view: View) -> list[str]:
    """Report the cell with the most replies that reached the token limit, for each language."""
    notes = []
    found = lines(grid, view, TRUNCATED_PANEL)
    for language in view.languages:
        points = [p for line in found if line.language == language for p in line.points]
        worst = max(points, key=lambda p: p.value, default=None)
        if worst is not None and worst.value > _MANY_TRUNCATED:
            cells = ", ".join(cell.cell_id for cell in worst.cells)
            notes.append(
                f"Up to {worst.value:.1f} % of the replies to questions in {language} ({cells}) "
                "reached the token limit and may be wrong for that reason. Raise "
                "evaluate.max_new_tokens, or evaluate.max_new_tokens_by_kind for one kind of "
                "benchmark."
            )
    return notes


def _skipped_samples(grid: GridRecord) -> list[str]:
    """Report the samples that trainings skipped, by source and fault."""
    counts: dict[str, Counter[str]] = {}
    for stage in grid.stages():
        for source, faults in stage.left_out.items():
            for fault, entry in faults.items():
                counts.setdefault(source, Counter())[fault] += entry["count"]
    return [
        f"Samples of {source} were skipped in training, counted every time they were due: "
        f"{', '.join(f'{count} x {fault}' for fault, count in faults.most_common())}."
        for source, faults in sorted(counts.items())
    ]

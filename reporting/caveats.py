"""What a reader of a report must know before believing its numbers."""

from collections import Counter
from pathlib import Path

from core.errors import DataError
from datamodules.shards.manifest import SUFFIX, load_manifest
from datamodules.storage.remote import StorageError
from evaluation.contamination import check_images
from reporting.preregistration import has_changed
from reporting.records import GridRecord
from reporting.series import MAIN, View, lines

_MOST_COMPARED = 50_000
"""Samples up to which a report compares images itself."""


def cautions(grid: GridRecord, view: View) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    missing = [cell for cell in grid.cells if cell.evaluation is None]
    if missing:
        notes.append(
            f"The grid is not finished: {len(missing)} of {len(grid.cells)} cells have no result. "
            "'Best' means the best of what is there."
        )
    points = [p for line in lines(grid, view, MAIN) for p in line.points]
    if points:
        half = max((p.high or p.value) - (p.low or p.value) for p in points) / 2
        notes.append(
            f"Each accuracy rests on {points[0].n} questions about {points[0].num_images} "
            f"images; its 95 % interval reaches up to {half:.1f} points to either side. The "
            "interval covers the choice of images, not the luck of training."
        )
    if len(view.seeds) == 1:
        notes.append(
            "One training seed per cell: how much a result moves from one training to the next was "
            "not measured. Run with --seeds 3 before building on a difference."
        )
    else:
        notes.append(
            f"Mean over {len(view.seeds)} seeds; intervals and decisions cover the choice of "
            "images, the small dots show the single seeds."
        )
    notes.append(
        "Comparisons are paired by question, clustered by image and corrected for their number "
        "(Holm). The best constant reply is chosen with knowledge of the answers."
    )
    if grid.profile == "embedded":
        notes.append(
            "The embedded profile trains very small models on drawn images: it shows the method "
            "at work, and its numbers say nothing about 8-billion-parameter models."
        )
    notes += _left_out(grid)
    notes += _contamination(grid)
    if has_changed(grid.folder):
        notes.append(
            "reporting/hypotheses.yaml has changed since this grid began. The claims are "
            "decided as they were registered then (hypotheses.yaml beside grid.json)."
        )
    if grid.git_dirty:
        notes.append("The working tree had uncommitted changes: the commit alone won't repeat it.")
    return notes


def _contamination(grid: GridRecord) -> list[str]:
    """Whether the benchmark's images were trained on; silent where data lie elsewhere."""
    benchmark = Path(f"{grid.benchmark}{SUFFIX}")
    training = {
        Path(path)
        for stage in grid.stages()
        if stage.kind in ("align", "instruct")
        for path in stage.data
        if path.endswith(SUFFIX)
    }
    paths = [benchmark, *sorted(training)]
    try:
        total = sum(load_manifest(path).num_samples for path in paths)
        if not training or total > _MOST_COMPARED:
            return []
        found = check_images(benchmark, sorted(training))
    except (DataError, StorageError, OSError):
        return ["Whether images of the benchmark were trained on was not checked: no data here."]
    if found.shared:
        return [
            f"{len(found.shared)} of {found.num_benchmark} images of the benchmark are also in "
            f"the training data, e.g. {found.shared[0]}: the scores are too high."
        ]
    return [
        f"None of the {found.num_benchmark} images of the benchmark is among the "
        f"{found.num_training:,} of the training (compared by bytes; "
        "evaluation.contamination --pixels also finds copies in other formats)."
    ]


def _left_out(grid: GridRecord) -> list[str]:
    """Samples that no training could use, by source and fault."""
    counts: dict[str, Counter[str]] = {}
    for stage in grid.stages():
        for source, faults in stage.left_out.items():
            for fault, entry in faults.items():
                counts.setdefault(source, Counter())[fault] += entry["count"]
    return [
        f"Samples of {source} were left out of trainings, each counted whenever it was due: "
        f"{', '.join(f'{count} x {fault}' for fault, count in faults.most_common())}."
        for source, faults in sorted(counts.items())
    ]

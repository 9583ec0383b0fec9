"""Table of the sanity checks: per cell, whether the image matters for each group of questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.canaries import ImageUse
from reporting.records import CellRecord, GridRecord
from reporting.series import View

_GroupName = tuple[str, str, str, str]
_STYLES = {
    ImageUse.USED: "supported",
    ImageUse.UNDECIDED: "undecided",
    ImageUse.NOT_USED: "refuted",
    ImageUse.TOO_FEW: "open",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageUseColumn:
    """One group of questions: a benchmark, kind and answer type in one language."""

    title: str
    language: str
    is_target: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageUseCell:
    """Loss of accuracy of one group in one cell without the image, with the verdict."""

    text: str
    """Drop without the image in points, with its interval and p-value."""
    short: str
    """The drop alone."""
    verdict: ImageUse
    style: str
    """CSS class of the verdict."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageUseRow:
    """Sanity checks of one evaluation."""

    cell: str
    groups: tuple[ImageUseCell | None, ...]
    alone: str
    """Number of replies that changed when they were asked alone."""
    conclusion: str
    """What the checks of the evaluation say about it."""
    style: str
    """CSS class of the conclusion."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageUseTable:
    """Sanity checks of all evaluations of a grid."""

    columns: tuple[ImageUseColumn, ...]
    rows: tuple[ImageUseRow, ...]
    sentences: tuple[str, ...]
    """Groups of questions for which the image does not matter."""


def image_use_table(grid: GridRecord, view: View) -> ImageUseTable:
    """Return one row per finished evaluation with sanity checks."""
    cells = [(cell, cell.evaluation.canaries) for cell in grid.cells
             if cell.evaluation is not None and cell.evaluation.canaries]  # fmt: skip
    names: dict[_GroupName, None] = {}
    for _, found in cells:
        names |= dict.fromkeys(map(_name_of, found["groups"]))
    ordered = sorted(names, key=lambda name: view.languages.index(name[3])
                     if name[3] in view.languages else len(view.languages))  # fmt: skip
    rows = tuple(_row(cell, found, ordered) for cell, found in cells)
    datasets = {name[0] for name in ordered}
    return ImageUseTable(
        columns=tuple(
            ImageUseColumn(
                title=_title(name, with_dataset=len(datasets) > 1),
                language=name[3],
                is_target=name[3] == view.target,
            )
            for name in ordered
        ),
        rows=rows,
        sentences=tuple(_sentences(ordered, rows)),
    )


def _row(cell: CellRecord, found: Mapping[str, Any], names: Sequence[_GroupName]) -> ImageUseRow:
    by_name = {_name_of(group): group for group in found["groups"]}
    groups = tuple(_cell(by_name[name]) if name in by_name else None for name in names)
    conclusion, style = _conclude(found, [group.verdict for group in groups if group is not None])
    return ImageUseRow(
        cell=cell.cell_id,
        groups=groups,
        alone=f"{found['num_changed']} of {found['num_alone']}",
        conclusion=conclusion,
        style=style,
    )


def _conclude(found: Mapping[str, Any], verdicts: Sequence[ImageUse]) -> tuple[str, str]:
    """Return the conclusion about an evaluation, and its CSS class.

    Replies that depend on the batch, or on no image at all, suggest a fault of the evaluation. A
    model that ignores the image for some kinds of questions only is a result.
    """
    tested = [verdict for verdict in verdicts if verdict is not ImageUse.TOO_FEW]
    used = sum(verdict is ImageUse.USED for verdict in tested)
    if found["num_changed"]:
        return "replies depend on the batch", _STYLES[ImageUse.NOT_USED]
    if not tested:
        return ImageUse.TOO_FEW.value, _STYLES[ImageUse.TOO_FEW]
    if not used:
        return "no use of the image shown", _STYLES[ImageUse.NOT_USED]
    style = _STYLES[ImageUse.USED if used == len(tested) else ImageUse.UNDECIDED]
    return f"image used in {used} of {len(tested)} groups", style


def _cell(group: Mapping[str, Any]) -> ImageUseCell:
    verdict = ImageUse(group["verdict"])
    drops = [("blank image", group["blank"]), ("image of another question", group["shuffled"])]
    known = [(label, drop) for label, drop in drops if drop is not None]
    return ImageUseCell(
        text="; ".join(f"{label}: {_format_drop(drop)}" for label, drop in known),
        short=f"{known[0][1]['value']:.1f}" if known else "",
        verdict=verdict,
        style=_STYLES[verdict],
    )


def _format_drop(drop: Mapping[str, Any]) -> str:
    interval = ""
    if drop["low"] is not None and drop["high"] is not None:
        interval = f" [{drop['low']:.1f}, {drop['high']:.1f}]"
    return (
        f"costs {drop['value']:.1f}{interval} points on {drop['n']} questions about "
        f"{drop['num_images']} images, corrected p {drop['p_value']:.3f}"
    )


def _sentences(names: Sequence[_GroupName], rows: Sequence[ImageUseRow]) -> list[str]:
    """Name the groups for which several cells, or all, do not use the image."""
    sentences = []
    has_datasets = len({name[0] for name in names}) > 1
    for at, name in enumerate(names):
        tested = [row.groups[at] for row in rows]
        known = [group for group in tested if group is not None]
        unused = sum(group.verdict is ImageUse.NOT_USED for group in known)
        if not unused:
            continue
        which = f"{_title(name, with_dataset=False)} questions in {name[3]}"
        which += f" of {name[0]}" if has_datasets else ""
        if unused == len(known):
            subject = "No cell uses" if len(known) > 1 else "The cell does not use"
            sentences.append(f"{subject} the image for {which}.")
        else:
            verb = "does" if unused == 1 else "do"
            sentences.append(
                f"{unused} of {len(known)} cells {verb} not use the image for {which}."
            )
    return sentences


def _name_of(group: Mapping[str, Any]) -> _GroupName:
    return (group["dataset"], group["kind"], group["answer_type"], group["language"])


def _title(name: _GroupName, *, with_dataset: bool) -> str:
    dataset, kind, answer_type, _ = name
    return " ".join(filter(None, (dataset if with_dataset else "", kind, answer_type)))

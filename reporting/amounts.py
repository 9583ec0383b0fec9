"""Amounts of target-language data behind the shares of a grid, as texts."""

from collections.abc import Sequence
from statistics import fmean

from datamodules.batches.target_data import DataAmount
from pipeline.store.records import StageRecord
from reporting.records import CellRecord
from reporting.settings import NBSP

_TRAININGS = ("instruct", "align")
"""Training stages, the last one first."""
_TEN, _THOUSAND, _MILLION = 10, 1_000, 1_000_000


def last_training(cell: CellRecord) -> StageRecord | None:
    """Return the last training stage of a cell, whose mixture the axes of the study are about."""
    return next((cell.stages[kind] for kind in _TRAININGS if kind in cell.stages), None)


def amounts_of(cells: Sequence[CellRecord]) -> tuple[DataAmount, DataAmount] | None:
    """Return the image data of the last training in the target language and in both languages.

    Numbers are means over seeds. It is None if a cell has not been trained yet.
    """
    stages = [last_training(cell) for cell in cells]
    found = [
        stage.target_data for stage in stages if stage is not None and stage.target_data is not None
    ]
    if not found or len(found) < len(cells):
        return None
    target = _mean([one.target_images for one in found])
    return target, _mean([one.target_images + one.base_images for one in found])


def _mean(found: Sequence[DataAmount]) -> DataAmount:
    return DataAmount(
        num_samples=round(fmean(one.num_samples for one in found)),
        num_different=round(fmean(one.num_different for one in found)),
        num_loss_tokens=round(fmean(one.num_loss_tokens for one in found)),
    )


def describe_amount(cells: Sequence[CellRecord]) -> str:
    """Describe the target-language image data of cells; empty if it is not known."""
    amounts = amounts_of(cells)
    if amounts is None:
        return ""
    target, total = amounts
    images = f"{target.num_different:,} of {total.num_different:,}{NBSP}images"
    return f"{images}, {format_count(target.num_loss_tokens)}{NBSP}tokens"


def format_count(number: int) -> str:
    """Format a number with at most three digits: 840, 9.1 k, 61 k, 1.2 M."""
    if number < _THOUSAND:
        return str(number)
    scale, unit = (_MILLION, "M") if number >= _MILLION else (_THOUSAND, "k")
    value = number / scale
    return f"{value:.1f}{NBSP}{unit}" if value < _TEN else f"{value:.0f}{NBSP}{unit}"

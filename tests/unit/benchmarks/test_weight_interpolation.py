"""Weights between two trained cells, and the check of what they predict."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.weight_interpolation import (
    SCORES_BETWEEN,
    WEIGHTS_BETWEEN,
    CellPrediction,
    Comparison,
    compare,
    held_out,
    interpolate,
    summarise,
)
from core.errors import CheckpointError
from models.weights import save_tensors
from reporting.records import load_grid
from tests.support import fake_grid


def _save(path: Path, **tensors: torch.Tensor) -> Path:
    save_tensors(path, {f"connector.{name}": value for name, value in tensors.items()})
    return path


def test_ends_are_the_trained_weights_and_the_middle_is_their_mean(tmp_path: Path) -> None:
    first, second = torch.randn(3, 2), torch.randn(3, 2)
    low, high = _save(tmp_path / "low", w=first), _save(tmp_path / "high", w=second)
    for weight, expected in ((0.0, first), (1.0, second), (0.5, (first + second) / 2)):
        interpolate(low, high, weight, tmp_path / "mixed")
        found = load_file(tmp_path / "mixed")["connector.w"]
        assert torch.equal(found, expected) if weight != 0.5 else torch.allclose(found, expected)


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    low = _save(tmp_path / "low", w=torch.ones(2))
    with pytest.raises(CheckpointError, match="have different tensors"):
        interpolate(low, _save(tmp_path / "a", v=torch.ones(2)), 0.5, tmp_path / "mixed")
    with pytest.raises(CheckpointError, match=r"connector.w is \(2,\)"):
        interpolate(low, _save(tmp_path / "b", w=torch.ones(3)), 0.5, tmp_path / "mixed")


@pytest.mark.slow
def test_cells_between_two_others_are_held_out_and_predicted(tmp_path: Path) -> None:
    fake_grid.make_grid(tmp_path, num_images=30)
    grid = load_grid(tmp_path, "mix_ablation", "embedded")
    found = list(held_out(grid))
    assert len(found) == 8
    for one in found:
        assert one.low.target_share < one.cell.target_share < one.high.target_share
        assert one.low.axes["text_only"] == one.cell.axes["text_only"]
        assert one.weight == pytest.approx(0.5)
    one = found[1]
    # The trained cell itself in place of the interpolated weights has no error.
    own = compare(one, one.cell.stages["evaluate"].predictions, "eu")
    assert own.error(WEIGHTS_BETWEEN) == 0
    assert own.correlation == pytest.approx(1)
    assert own.explained_with_weights == pytest.approx(1)
    assert own.explained_by_neighbours < 0.9
    # The lower neighbour in their place has its difference as the error.
    other = compare(one, one.low.stages["evaluate"].predictions, "eu")
    middle = other.predicted[WEIGHTS_BETWEEN].value
    high = 2 * other.predicted[SCORES_BETWEEN].value - middle
    again = compare(one, one.high.stages["evaluate"].predictions, "eu")
    assert again.predicted[WEIGHTS_BETWEEN].value == pytest.approx(high)


def _comparison(error: float, low_share: float = 0.2) -> Comparison:
    return Comparison(
        cell="c", language="eu", low_share=low_share, num_questions=9, measured=50.0,
        predicted={WEIGHTS_BETWEEN: CellPrediction(value=50 + error, tolerance=3.29)},
        by_question_type={}, correlation=0.5, explained_by_neighbours=0.4,
        explained_with_weights=0.4,
    )  # fmt: skip


def test_predictions_count_only_if_the_errors_are_as_small_as_expected() -> None:
    rng = np.random.default_rng(0)
    counted = [
        summarise([_comparison(error) for error in 2 * rng.standard_normal(8)])["eu"]
        for _ in range(400)
    ]
    share = np.mean([one[WEIGHTS_BETWEEN]["counts"] for one in counted])
    assert 0.92 < share < 0.98
    # One gross error is enough, although seven of eight cells are inside.
    rows = [_comparison(1.0)] * 7 + [_comparison(-25.0, low_share=0.0)]
    found = summarise(rows)
    assert not found["eu"][WEIGHTS_BETWEEN]["counts"]
    assert found["eu"][WEIGHTS_BETWEEN]["num_inside"] == 7
    assert found["eu, above 0"][WEIGHTS_BETWEEN]["counts"]
    assert dataclasses.replace(rows[0]).is_inside(WEIGHTS_BETWEEN)

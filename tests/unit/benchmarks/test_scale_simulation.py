"""The scale simulation on small sources, and its goodput against the closed form."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scale_simulation import checkpoints, data, failures
from callbacks.checkpoint_interval import best_interval_s
from datamodules.batches.step_dataset import global_batch

NUM_SAMPLES = 400_000
BATCH = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lengths")
    data.write_lengths(path, NUM_SAMPLES)
    return path


def test_a_rank_plans_its_part_of_the_global_batch(folder: Path) -> None:
    cost = data.measure_rank(folder, NUM_SAMPLES, BATCH, rank=20, world_size=40)
    assert cost.num_micro_batches >= 1
    assert cost.plan_cpu_ms > 0
    opened = data.open_data(folder, NUM_SAMPLES, BATCH)
    assert len(global_batch(opened, 3)) == BATCH
    assert all(isinstance(part.num_tokens.base, np.memmap) for part in opened.lengths.values())


def test_ranks_are_balanced_across_groups(folder: Path) -> None:
    opened = data.open_data(folder, NUM_SAMPLES, 1024)
    assert data.imbalance(opened, 32, 1)["tokens"] < 0.02


@pytest.mark.slow
def test_every_rank_writes_its_part_of_a_checkpoint() -> None:
    one, four = checkpoints.measure(1), checkpoints.measure(4)
    assert one.gib_per_file * 2**30 == pytest.approx(8.03e9 * 12, rel=0.01)
    assert four.gib_per_file == pytest.approx(one.gib_per_file / 4, rel=0.01)
    assert four.results_mb > 3.5 * one.results_mb
    assert four.gathered_mb < 0.01


def test_goodput_is_that_of_the_closed_form() -> None:
    save_s, hours = 6.0, 1.0
    rate = 1 / (hours * 3600)
    interval = best_interval_s(save_s, hours * 3600)
    expected_s = math.exp(rate * failures.RESTART_S) * math.expm1(rate * (interval + save_s)) / rate
    found = np.mean([failures.goodput(save_s, hours, seed=seed) for seed in range(8)])
    assert found == pytest.approx(interval / expected_s, rel=0.01)

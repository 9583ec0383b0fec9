"""Steps between processes: one file descriptor each, in shared memory that is large enough."""

import dataclasses
import logging
import pickle
import resource
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from core.errors import ConfigError
from core.process.machine import SharedMemory
from core.samples import EncodedSample, SampleRef, StepBatch
from datamodules.batches.collate import ReadySample, collate_micro_batch
from datamodules.batches.shared_memory import LoaderDemand

pytestmark = pytest.mark.gpu_path

NUM_MICRO_BATCHES, NUM_STEPS = 44, 12
"""Micro-batches of a step of stage 2 of the paper on one GPU."""
MIB, GIB = 1 << 20, 1 << 30


def make_step(step: int, num_micro_batches: int) -> StepBatch:
    encoded = EncodedSample(
        input_ids_T=np.arange(6) + step,
        loss_mask_T=np.arange(6) > 3,
        branch_ids_T=np.zeros(6, dtype=np.int64),
    )
    ref = SampleRef(
        position=step, source="s", language="eu", key="k", num_tokens=6, num_loss_tokens=2
    )
    image = torch.full((3, 4, 4), step, dtype=torch.uint8)
    sample = ReadySample(ref=ref, encoded=encoded, image=image)
    micro_batch = collate_micro_batch(
        [[sample]], pad_token_id=0, image_token_id=3, is_features=False
    )
    return StepBatch(step=step, micro_batches=(micro_batch,) * num_micro_batches)


class LargeSteps(IterableDataset[StepBatch]):
    def __iter__(self) -> Iterator[StepBatch]:
        yield from (make_step(step, NUM_MICRO_BATCHES) for step in range(NUM_STEPS))


def same(item: StepBatch) -> StepBatch:
    return item


def count_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def assert_equal(found: StepBatch, expected: StepBatch) -> None:
    assert (found.step, found.bad_samples) == (expected.step, expected.bad_samples)
    for one, two in zip(found.micro_batches, expected.micro_batches, strict=True):
        for field in dataclasses.fields(one):
            a, b = getattr(one, field.name), getattr(two, field.name)
            is_same = torch.equal(a, b) if isinstance(b, torch.Tensor) else a == b
            assert is_same, field.name


@pytest.fixture
def few_open_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.slow
@pytest.mark.usefixtures("few_open_files")
def test_a_large_step_takes_one_file_descriptor() -> None:
    loader = DataLoader(
        LargeSteps(),
        batch_size=None,
        num_workers=2,
        collate_fn=same,
        multiprocessing_context="fork",
    )
    kept, before = [], count_open_files()
    for step in loader:
        kept.append(step)
        assert count_open_files() - before < 40 + 2 * len(kept)
    assert len(kept) == 2 * NUM_STEPS
    for step in kept:
        assert_equal(step, make_step(step.step, NUM_MICRO_BATCHES))


def test_a_step_is_pickled_as_one_tensor() -> None:
    step = make_step(7, NUM_MICRO_BATCHES)
    content = bytes(ForkingPickler.dumps(step))
    assert content.count(b"rebuild_storage") == 1
    again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(step))))
    assert_equal(again, step)
    storages = {
        tensor.untyped_storage().data_ptr()
        for micro_batch in again.micro_batches
        for tensor in micro_batch.tensors().values()
    }
    assert len(storages) == 1
    assert_equal(pickle.loads(pickle.dumps(make_step(7, 0))), make_step(7, 0))


def test_a_step_moves_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_step(7, NUM_MICRO_BATCHES)
    assert step.to("cpu") is step
    moves = []
    move = torch.Tensor.to

    def spy(tensor: torch.Tensor, *args: object) -> torch.Tensor:
        moves.append(args)
        return move(tensor, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "to", spy)
    moved = step.to("meta")
    assert moves == [("meta",)]
    assert moved.num_loss_tokens == step.num_loss_tokens
    for one, two in zip(moved.micro_batches, step.micro_batches, strict=True):
        for name, tensor in two.tensors().items():
            assert getattr(one, name).is_meta
            assert (getattr(one, name).shape, getattr(one, name).dtype) == (
                tensor.shape,
                tensor.dtype,
            )


# --- shared memory ---


def demand(step_bytes: int) -> LoaderDemand:
    return LoaderDemand(step_bytes=step_bytes, num_workers=6, num_ranks=4)


def test_too_little_shared_memory_is_an_error_with_the_fix(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert demand(MIB).num_bytes == (6 * 2 + 1) * 4 * MIB
    docker = SharedMemory(total=64 * MIB, free=64 * MIB)
    demand(MIB).check(docker)
    assert not caplog.text
    with pytest.raises(ConfigError, match=r"4\.5\d GiB.*6 workers.*0\.09 GiB.*--shm-size=6g"):
        demand(90 * MIB).check(docker)
    with caplog.at_level(logging.WARNING):
        demand(90 * MIB).check(SharedMemory(total=8 * GIB, free=GIB))
    assert "only 1.00 GiB are free" in caplog.text

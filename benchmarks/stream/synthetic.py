"""Measure seek time and memory of our sample order with millions of synthetic samples."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stream.common import memory_of
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture.stream import MixtureStream

TOTAL = (1_500_000, 800_000, 400_000, 200_000, 100_000)
EACH = (3_000_000,) * 5
"""Sizes of five sources: 3 M samples in total, or each."""
WEIGHTS = (26, 18, 10.5, 6, 3.5)
PER_SHARD = 5000
_ROUNDS = 9
_LOCATED_STEPS = 16
"""Number of steps located at a time, as in `datamodules.batches.step_dataset`."""


@dataclasses.dataclass(frozen=True, slots=True)
class SyntheticSource:
    """Source without shards, as far as the mixture needs it."""

    shard_sizes: np.ndarray

    def __len__(self) -> int:
        """Return the number of samples."""
        return int(self.shard_sizes.sum())

    @property
    def num_rounds(self) -> int:
        """Return the number of equal rounds of the samples."""
        return 1


def build_stream(sizes: tuple[int, ...], per_shard: int) -> MixtureStream:
    """Build the real MixtureStream on synthetic sources; `base` defines their sizes."""
    components = {
        f"source_{i}": ComponentConfig(base=str(size), samples_per_step=weight)
        for i, (size, weight) in enumerate(zip(sizes, WEIGHTS, strict=True))
    }

    def synthetic(path: Path) -> Any:
        size = int(str(path))
        return SyntheticSource(np.full(size // per_shard, per_shard, dtype=np.int64))

    return MixtureStream(MixtureConfig(components=components, seed=0), open_source=synthetic)


def measure(position: int, num_located: int) -> dict[str, Any]:
    """Measure seek times of new streams and the memory of this process while locating steps."""
    seeks = {
        name: [_seek(build_stream(sizes, PER_SHARD), position) for _ in range(_ROUNDS)]
        for name, sizes in (("3 M together", TOTAL), ("3 M each", EACH))
    }
    answer: dict[str, Any] = {
        f"seek, {name}": {"median_ms": float(np.median(ms)), "max_ms": max(ms)}
        for name, ms in seeks.items()
    }
    stream = build_stream(EACH, PER_SHARD)
    num_slots, uss = stream.samples_per_step, {}
    marks = {num_located // 10, num_located // 2, num_located}
    started = time.perf_counter()
    chunk = num_slots * _LOCATED_STEPS
    for located in range(chunk, num_located + chunk, chunk):
        stream.locate(np.arange(position + located - chunk, position + located))
        passed = {mark for mark in marks if mark <= located}
        marks -= passed
        uss.update({mark: memory_of(os.getpid())[0] for mark in passed})
    answer["locate_us_per_sample"] = (time.perf_counter() - started) / num_located * 1e6
    answer["uss"] = [uss[mark] for mark in sorted(uss)]
    return answer


def _seek(stream: MixtureStream, position: int) -> float:
    started = time.perf_counter()
    stream.locate(np.arange(position, position + _LOCATED_STEPS * stream.samples_per_step))
    return (time.perf_counter() - started) * 1000

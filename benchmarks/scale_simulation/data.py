"""Planning of training data by one rank: the real stream and batch plan on synthetic sources."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.stream.common import memory_of
from benchmarks.stream.synthetic import SyntheticSource
from core.chat.format import ChatFormat, PromptStyle
from datamodules.batches.lengths import SourceLengths
from datamodules.batches.packing import plan_step
from datamodules.batches.step_dataset import StepData, StepDataset, global_batch
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture.stream import MixtureStream

SHARES = (0.4, 0.3, 0.15, 0.1, 0.05)
"""Shares of the sources, of the samples and of every step."""
PER_SHARD = 10_000
MICRO_BATCH_TOKENS = ROW_TOKENS = 4096
"""Stage 2 of the paper profile."""
_TILE = 1 << 22
_FIRST_STEP = 10_000
_NUM_STEPS = 32
_MAX_CPU_S = 20.0
"""A plan for few ranks takes seconds per step, so fewer steps of it are measured."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RankCost:
    """Measurements of one rank in a process of its own."""

    start_s: float
    """From opening the sources to the plan of the first step."""
    start_cpu_s: float
    """CPU time of the same: on a busy machine, the time above is longer."""
    plan_cpu_ms: float
    """CPU time per step of locating the global batch and planning this rank's part."""
    num_micro_batches: float
    memory_mb: float
    """Memory that only this process uses, beyond that of its imports."""


def write_lengths(folder: Path, num_samples: int) -> None:
    """Write the token counts of all sources, 8 bytes per sample, as `SourceLengths` maps them."""
    rng = np.random.default_rng(0)
    images = 600 + np.clip(rng.lognormal(4.6, 0.8, _TILE), 4, 1400)
    texts = np.clip(rng.lognormal(6.2, 0.6, _TILE), 40, 2000)
    tile = np.where(rng.random(_TILE) < 0.8, images, texts).astype(np.int32)
    for number, size in enumerate(source_sizes(num_samples)):
        path = folder / f"{number}.npy"
        mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=(2, size))
        for start in range(0, size, _TILE):
            stop = min(size, start + _TILE)
            mapped[0, start:stop] = tile[: stop - start]
            mapped[1, start:stop] = tile[: stop - start] // 4
        mapped.flush()


def source_sizes(num_samples: int) -> list[int]:
    """Return the number of samples of each source, in whole shards."""
    return [int(num_samples * share) // PER_SHARD * PER_SHARD for share in SHARES]


def open_data(folder: Path, num_samples: int, batch_size: int) -> StepData:
    """Open the stream and the memory-mapped lengths, as a rank does when it starts."""
    per_step = [round(share * batch_size) for share in SHARES]
    per_step[0] += batch_size - sum(per_step)
    components = {
        f"source_{number}": ComponentConfig(base=f"{number}:{size}", samples_per_step=float(count))
        for number, (size, count) in enumerate(
            zip(source_sizes(num_samples), per_step, strict=True)
        )
    }

    def open_source(path: Path) -> Any:
        number, size = map(int, str(path).split(":"))
        sizes = np.full(size // PER_SHARD, PER_SHARD, dtype=np.int64)
        return _NamedSource(shard_sizes=sizes, name=f"source_{number}")

    stream = MixtureStream(MixtureConfig(components=components, seed=0), open_source=open_source)
    return StepData(
        stream=stream,
        lengths={f"source_{number}": _map_lengths(folder, number) for number in range(len(SHARES))},
        chat=cast(ChatFormat, None),  # planning encodes nothing
        prompt_style=PromptStyle.CHAT,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        row_tokens=ROW_TOKENS,
        features=None,
        transform=None,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _NamedSource(SyntheticSource):
    name: str


def _map_lengths(folder: Path, number: int) -> SourceLengths:
    tokens, loss_tokens = np.load(folder / f"{number}.npy", mmap_mode="r")
    longest = ROW_TOKENS  # stored beside the merged file of a real source
    return SourceLengths(num_tokens=tokens, num_loss_tokens=loss_tokens, faults={}, longest=longest)


def measure_rank(
    folder: Path, num_samples: int, batch_size: int, *, rank: int, world_size: int
) -> RankCost:
    """Measure this process as one rank."""
    imports = memory_of(os.getpid())[0]
    started, begin = time.perf_counter(), time.process_time()
    data = open_data(folder, num_samples, batch_size)
    dataset = StepDataset(data, num_steps=2**31, rank=rank, world_size=world_size)
    list(dataset.plan([_FIRST_STEP - 1]))
    start_s, start_cpu_s = time.perf_counter() - started, time.process_time() - begin
    begin, counts = time.process_time(), list[int]()
    for planned in dataset.plan(range(_FIRST_STEP, _FIRST_STEP + _NUM_STEPS)):
        counts.append(len(planned.micro_batches))
        if time.process_time() - begin > _MAX_CPU_S:
            break
    cpu_ms = (time.process_time() - begin) / len(counts) * 1000
    return RankCost(
        start_s=start_s,
        start_cpu_s=start_cpu_s,
        plan_cpu_ms=cpu_ms,
        num_micro_batches=float(np.mean(counts)),
        memory_mb=(memory_of(os.getpid())[0] - imports) / 2**20,
    )


def measure_in_process(words: list[str]) -> RankCost:
    """Run `measure_rank` in a new process through the command line of this package."""
    command = [sys.executable, "-m", "benchmarks.scale_simulation", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return RankCost(**json.loads(done.stdout.splitlines()[-1]))


def imbalance(data: StepData, world_size: int, num_steps: int) -> dict[str, float]:
    """Return how much more the busiest rank gets than the average, over several steps."""

    def excess(values: list[int]) -> float:
        return max(values) / (sum(values) / len(values)) - 1

    tokens, forwards = [], []
    for step in range(_FIRST_STEP, _FIRST_STEP + num_steps):
        lengths = global_batch(data, step).num_tokens
        plan = plan_step(lengths, world_size, MICRO_BATCH_TOKENS, ROW_TOKENS)
        samples = [[i for micro in rank for row in micro for i in row] for rank in plan]
        tokens.append(excess([int(lengths[indices].sum()) for indices in samples]))
        needed = [sum(bool(micro) for micro in rank) for rank in plan]
        forwards.append(excess(needed))
    return {"tokens": float(np.mean(tokens)), "micro_batches": float(np.mean(forwards))}

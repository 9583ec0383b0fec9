"""Plain webdataset's side of `stream`: buffers of shards and samples, sources drawn at random.

Its generators are seeded, so that a run from the beginning is always the same run: the most that
plain webdataset can give.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from torch.utils.data import DataLoader

from benchmarks.stream.common import (
    SHUFFLE_BUFFER,
    WEIGHTS,
    Item,
    Job,
    Seek,
    decode,
    same,
    shard_paths,
)

SEED = 0


class Stateless:
    """A feed that can't be continued."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[Item]]:
        """The loader's batches."""
        return iter(self.loader)

    def state(self) -> None:
        """There is none."""
        return


class PlainWebDataset:
    """Shards and samples shuffled through buffers, sources drawn at random."""

    packages = ("webdataset",)
    seek = Seek.REPLAY

    def prepare(self, folder: Path) -> None:
        """Tars are read as they are."""

    def clean(self) -> None:
        """Nothing is left in the system."""

    def open(self, job: Job, state: Any) -> Stateless:
        """Start from the beginning, whatever was before."""
        del state
        sources = [
            wds.WebDataset(
                shard_paths(job.folder, name),
                shardshuffle=100,
                detshuffle=True,
                seed=SEED,
                nodesplitter=wds.split_by_node,
                empty_check=False,
            )
            .shuffle(SHUFFLE_BUFFER, rng=random.Random(SEED))
            .map(_Decode(job.decode_pixels))
            .repeat()
            for name in WEIGHTS
        ]
        mix = wds.RandomMix(sources, list(WEIGHTS.values()))
        # RandomMix draws from the global generator, which the DataLoader's workers seed from torch.
        torch.manual_seed(SEED)
        loader = DataLoader(
            mix, batch_size=job.rank_batch, num_workers=job.num_workers, collate_fn=same
        )
        return Stateless(loader)

    def state_at(self, job: Job, step: int) -> None:
        """There is none."""
        del job, step


class _Decode:
    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, sample: dict[str, Any]) -> Item:
        return decode(sample["__key__"], sample["json"], sample["webp"], self.pixels)

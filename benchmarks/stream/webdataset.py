"""Plain webdataset in the stream benchmark: shuffle buffers and randomly drawn sources.

All generators are seeded, so every run from the beginning is identical, which is the best that
plain webdataset offers.
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
    """Feed without a state."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[Item]]:
        """Yield the batches of the loader."""
        return iter(self.loader)

    def state(self) -> None:
        """Return None: there is no state."""
        return


class PlainWebDataset:
    """Shards and samples shuffled in buffers, with sources drawn at random."""

    packages = ("webdataset",)
    seek = Seek.REPLAY

    def prepare(self, folder: Path) -> None:
        """Do nothing: tar files are read directly."""

    def clean(self) -> None:
        """Do nothing: killed processes leave nothing behind."""

    def open(self, job: Job, state: Any) -> Stateless:
        """Start from the beginning; the state is ignored."""
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
        # RandomMix uses the global generator, which the workers of the DataLoader seed from torch.
        torch.manual_seed(SEED)
        loader = DataLoader(
            mix, batch_size=job.rank_batch, num_workers=job.num_workers, collate_fn=same
        )
        return Stateless(loader)

    def state_at(self, job: Job, step: int) -> None:
        """Return None: there is no state."""
        del job, step


class _Decode:
    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, sample: dict[str, Any]) -> Item:
        return decode(sample["__key__"], sample["json"], sample["webp"], self.pixels)

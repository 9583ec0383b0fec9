"""MosaicML Streaming in the stream benchmark, with the shards converted to its format."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import webdataset as wds
from streaming import MDSWriter, Stream, StreamingDataLoader, StreamingDataset
from streaming.base.util import clean_stale_shared_memory

from benchmarks.stream.common import (
    GLOBAL_BATCH,
    SAMPLES,
    WEIGHTS,
    Item,
    Job,
    Seek,
    decode,
    shard_paths,
)

SEED = 0


class MosaicFeed:
    """Feed over all epochs of a StreamingDataLoader."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[Item]]:
        """Yield the batches as lists."""
        while True:
            for batch in self.loader:
                yield batch["items"]

    def state(self) -> Any:
        """Return the state that rank 0 would save."""
        return self.loader.state_dict()


class MosaicStreaming:
    """MosaicML Streaming on its own format."""

    packages = ("mosaicml-streaming",)
    seek = Seek.ANYWHERE

    def prepare(self, folder: Path) -> None:
        """Convert the shards with the same number of samples per shard."""
        columns = {"key": "str", "json": "bytes", "webp": "bytes"}
        for name in WEIGHTS:
            paths = shard_paths(folder, name)
            size = sum(Path(path).stat().st_size for path in paths) // len(paths)
            out = str(folder / "mds" / name)
            with MDSWriter(out=out, columns=columns, size_limit=size) as writer:
                for sample in wds.WebDataset(paths, shardshuffle=False):
                    parts = {part: sample[part] for part in ("json", "webp")}
                    writer.write({"key": sample["__key__"], **parts})

    def clean(self) -> None:
        """Remove the shared memory of killed processes, which later ones would reject."""
        clean_stale_shared_memory()

    def open(self, job: Job, state: Any) -> MosaicFeed:
        """Start from the beginning or resume from a state."""
        streams = [
            Stream(local=str(job.folder / "mds" / name), proportion=weight / GLOBAL_BATCH)
            for name, weight in WEIGHTS.items()
        ]
        dataset = StreamingDataset(
            streams=streams,
            epoch_size=sum(SAMPLES.values()) // GLOBAL_BATCH * GLOBAL_BATCH,
            shuffle=True,
            shuffle_seed=SEED,
            num_canonical_nodes=1,
            batch_size=job.rank_batch,
        )
        loader = StreamingDataLoader(
            dataset,
            batch_size=job.rank_batch,
            num_workers=job.num_workers,
            collate_fn=_MosaicCollate(job.decode_pixels),
        )
        if state is not None:
            loader.load_state_dict(state)
        return MosaicFeed(loader)

    def state_at(self, job: Job, step: int) -> Any:
        """Return the state at a step, which consists of a few numbers."""
        del job
        return {
            "epoch": 0,
            "sample_in_epoch": step * GLOBAL_BATCH,
            "num_canonical_nodes": 1,
            "shuffle_seed": SEED,
            "initial_physical_nodes": 1,
        }


class _MosaicCollate:
    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, list[Item]]:
        # A dict, because the loader counts the samples of a batch by its first value.
        return {"items": [decode(s["key"], s["json"], s["webp"], self.pixels) for s in samples]}

"""Index of a sharded checkpoint whose places are arrays instead of an object for each part.

torch's index has an object with a path for each part: 894,000 for an 8B model on 1,024 ranks, which
the first rank receives and writes in 20 s of CPU time, and which every rank that loads the
checkpoint reads in 16 s.
"""

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.distributed.checkpoint.filesystem import (
    CURRENT_DCP_VERSION,
    FileSystemWriter,
    _StorageInfo,
)
from torch.distributed.checkpoint.metadata import (
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from core.io.files import atomic_file

_INDEX = ".metadata"
"""torch's name."""
Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WrittenParts:
    """Places of the parts that one rank has written."""

    files: tuple[str, ...]
    """Names of its files."""
    places: Numbers
    """Number of the entry, of its part, and of the file, first byte, number of bytes (parts, 5)."""


class PartTable:
    """The places of all parts; torch's reader asks it instead of a dictionary."""

    def __init__(self, num_parts: dict[str, int], written: Sequence[WrittenParts]) -> None:
        """Join what all ranks have written.

        Args:
            num_parts: Number of parts of each entry, in the order in which entries are numbered.
            written: The places of all ranks.

        Raises:
            RuntimeError: If a part was not written, or twice.
        """
        ends = np.cumsum([0, *num_parts.values()])
        self._starts = dict(zip(num_parts, ends.tolist(), strict=False))
        self._files = [name for rank in written for name in rank.files]
        counts = [len(rank.files) for rank in written]
        firsts = np.repeat(np.cumsum([0, *counts[:-1]]), [len(rank.places) for rank in written])
        places = np.concatenate([rank.places for rank in written])
        rows = ends[places[:, 0]] + places[:, 1]
        if not np.array_equal(np.sort(rows), np.arange(ends[-1])):
            raise RuntimeError(f"{len(rows)} parts were written, expected each of {ends[-1]} once")
        self._places = np.empty((len(rows), 3), dtype=np.int64)
        self._places[rows] = places[:, 2:]
        self._places[rows, 0] += firsts

    def __getitem__(self, index: MetadataIndex) -> _StorageInfo:
        """Return the place of a part."""
        file, offset, length = self._places[self._starts[index.fqn] + (index.index or 0)].tolist()
        return _StorageInfo(self._files[file], offset, length)


class ShardWriter(FileSystemWriter):
    """Writer for the plans of `UniformPlanner`: torch's files, and an index with a `PartTable`.

    One thread writes one file per rank.
    """

    def __init__(self, path: Path) -> None:
        """Write into a folder.

        Without copies ahead, torch takes the loader that does not touch CUDA (see `write_shards`).
        """
        super().__init__(path, per_thread_copy_ahead=0)
        self._folder = path

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the parts of this rank, and return all their places as one result."""
        results = super().write_data(plan, planner).value()
        future: Future[list[WriteResult]] = Future()
        numbers = {name: number for number, name in enumerate(planner.state_dict)}  # type: ignore[attr-defined]  # of DefaultSavePlanner
        future.set_result([pack_results(results, numbers)] if results else [])
        return future

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the index."""
        num_parts = {
            name: len(entry.chunks) if isinstance(entry, TensorStorageMetadata) else 1
            for name, entry in metadata.state_dict_metadata.items()
        }
        written = [result.storage_data for rank in results for result in rank]
        metadata.version = CURRENT_DCP_VERSION
        metadata.storage_data = PartTable(num_parts, written)
        metadata.storage_meta = self.storage_meta() or StorageMeta()
        with atomic_file(self._folder / _INDEX) as file:
            pickle.dump(metadata, file)


def pack_results(results: Sequence[WriteResult], numbers: dict[str, int]) -> WriteResult:
    """Return the results of one rank as one.

    Args:
        results: What torch's writer returns: a result for each part.
        numbers: The number of each entry of the state.
    """
    files: dict[str, int] = {}
    rows: list[tuple[int, ...]] = []
    for result in results:
        place: Any = result.storage_data
        file = files.setdefault(place.relative_path, len(files))
        entry, part = numbers[result.index.fqn], result.index.index or 0
        rows.append((entry, part, file, place.offset, place.length))
    written = WrittenParts(files=tuple(files), places=np.array(rows, dtype=np.int64))
    size = sum(result.size_in_bytes for result in results)
    return WriteResult(index=results[0].index, size_in_bytes=size, storage_data=written)

"""Measure the size and loading time of the index of a source with three million samples.

The tar files are sparse files of the right size, because only the index is read.

    python -m benchmarks.index_size --samples 3000000 --shards 576 --key-bytes 9
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from core.io.files import sha256_bytes
from data_prep.shards.writer import SourceInfo, write_manifest
from datamodules.shards.index import ROW_DTYPE, IndexHeader, ShardIndex
from datamodules.shards.manifest import IndexEntry, Modality, ShardEntry
from datamodules.shards.source import Source

BLOCKS_PER_SAMPLE = 64

_Result = TypeVar("_Result")


def main() -> None:
    """Build the source in a temporary folder, open it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--samples", type=int, default=3_000_000)
    parser.add_argument("--shards", type=int, default=576, help="default: 576, as cc3m-wds")
    parser.add_argument("--key-bytes", type=int, default=9, help="9 in img2dataset, 36 in a UUID")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = build(folder, options.samples, options.shards, options.key_bytes)
        index_bytes = sum(path.stat().st_size for path in folder.glob("*.index"))
        per_sample = index_bytes / options.samples
        print(f"index on disk: {index_bytes / 1e6:.1f} MB, {per_sample:.1f} bytes per sample")
        before = peak_mb()
        seconds, source = timed(lambda: Source(manifest))
        print(f"opened: {seconds:.3f} s for {len(source):,} samples in {options.shards} shards")
        places = np.random.default_rng(0).integers(0, len(source), 10_000).tolist()
        seconds, _ = timed(lambda: [source.key(i) for i in places])
        print(f"key of a random sample: {seconds / len(places) * 1e6:.1f} us")
        seconds, sizes = timed(source.image_sizes)
        print(f"all image sizes: {seconds:.3f} s, {sizes.nbytes / 1e6:.0f} MB")
        print(f"peak memory: {peak_mb() - before:.0f} MB more than before")


def build(folder: Path, num_samples: int, num_shards: int, key_bytes: int) -> Path:
    entries = []
    for shard, rows in enumerate(np.array_split(np.arange(num_samples), num_shards)):
        num_bytes = (len(rows) * BLOCKS_PER_SAMPLE + 20) * 512
        header = IndexHeader(member="txt", sha256=f"{shard:064x}", num_bytes=num_bytes)
        table = np.zeros(len(rows), dtype=ROW_DTYPE)
        table["record_block"] = np.arange(len(rows)) * BLOCKS_PER_SAMPLE + 1
        table["image_block"] = table["record_block"] + 2
        table["record_size"], table["image_size"] = 60, (BLOCKS_PER_SAMPLE - 4) * 512
        table["width"], table["height"] = 400, 300
        text = b"".join(b"%0*d" % (key_bytes, i) for i in rows.tolist())
        ends = np.arange(1, len(rows) + 1, dtype=np.uint32) * np.uint32(key_bytes)
        keys = (ends, np.frombuffer(text, dtype=np.uint8))
        content = ShardIndex(table, keys, header).to_bytes()
        (folder / f"{shard:05d}.index").write_bytes(content)
        with (folder / f"{shard:05d}.tar").open("wb") as tar:
            tar.truncate(num_bytes)
        entries.append(
            ShardEntry(
                path=f"{shard:05d}.tar",
                sha256=header.sha256,
                num_bytes=num_bytes,
                num_samples=len(rows),
                index=IndexEntry(
                    path=f"{shard:05d}.index",
                    sha256=sha256_bytes(content),
                    num_bytes=len(content),
                ),
            )
        )
    info = SourceInfo(
        name="synthetic",
        language="en",
        modality=Modality.IMAGE_TEXT,
        record=".txt",
        licence="none",
        provenance={},
    )
    return write_manifest(folder, info, entries)


def timed(action: Callable[[], _Result]) -> tuple[float, _Result]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()

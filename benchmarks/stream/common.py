"""Definitions that all sides of the stream benchmark share: jobs, decoding, memory figures.

The module runs in the environment of every library, so it only needs NumPy and Pillow.
"""

import dataclasses
import enum
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

SAMPLES = {"captions": 12_000, "instruct": 6_000, "captions_eu": 3_000}
"""Number of samples of each source."""
WEIGHTS = {"captions": 40, "instruct": 16, "captions_eu": 8}
"""Number of samples of each source in a global batch, not proportional to the sizes."""
GLOBAL_BATCH = sum(WEIGHTS.values())
PER_SHARD = 500
SHUFFLE_BUFFER = 1000
"""Buffer size of the sides that shuffle with a buffer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One decoded sample."""

    key: str
    record: Any
    pixels: np.ndarray | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Task of a child process."""

    side: str
    task: str
    folder: Path
    decode_pixels: int = 0
    """Side length that images are decoded to; 0 leaves them encoded."""
    rank: int = 0
    world_size: int = 1
    num_workers: int = 0
    state: Path | None = None
    """Folder with the states of all ranks to resume from."""
    amounts: tuple[int, ...] = ()
    """Numbers whose meaning depends on the task."""
    started: float = 0.0
    """Time of the launch (`time.time()`)."""

    @property
    def rank_batch(self) -> int:
        """Return the number of samples per rank and step."""
        return -(-GLOBAL_BATCH // self.world_size)

    def to_json(self) -> str:
        """Serialize the job for the command line."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Parse a job from the command line."""
        raw = json.loads(text)
        raw["folder"], raw["amounts"] = Path(raw["folder"]), tuple(raw["amounts"])
        raw["state"] = Path(raw["state"]) if raw["state"] else None
        return cls(**raw)


class Seek(enum.StrEnum):
    """Methods of seeking to a step."""

    ANYWHERE = "anywhere"
    SAVED = "saved state only"
    REPLAY = "replay"


class Feed(Protocol):
    """A running stream."""

    def __iter__(self) -> Iterator[list[Item]]:
        """Yield the batches of one rank endlessly."""

    def state(self) -> Any:
        """Return the state after the consumed batches, or None if the side has no state."""


class Side(Protocol):
    """One loader under test."""

    packages: tuple[str, ...]
    seek: Seek

    def prepare(self, folder: Path) -> None:
        """Index or convert the shards, once."""

    def clean(self) -> None:
        """Remove leftovers of killed processes."""

    def open(self, job: Job, state: Any) -> Feed:
        """Start from the beginning or resume from a state."""

    def state_at(self, job: Job, step: int) -> Any:
        """Return the state at a step, if it can be computed without reading up to it."""


def decode(key: str, record: bytes, image: bytes, pixels: int) -> Item:
    """Decode a sample in the same way for all sides: JSON, RGB image, bicubic resize."""
    return Item(key, json.loads(record), decode_image(image, pixels) if pixels else None)


def decode_image(image: bytes, pixels: int) -> np.ndarray:
    """Decode an image to uint8 (H, W, C)."""
    with Image.open(io.BytesIO(image)) as decoded:
        resized = decoded.convert("RGB").resize((pixels, pixels), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def same(item: Any) -> Any:
    """Return the argument: a collate function that can be pickled."""
    return item


def shard_paths(folder: Path, source: str) -> list[str]:
    """Return the tar files of a source."""
    return sorted(str(path) for path in (folder / source).glob("*.tar"))


def memory_of(pid: int) -> tuple[int, int]:
    """Return the unique and the proportional set size (USS, PSS) of a process in bytes."""
    kib = {"Private_Clean:": 0, "Private_Dirty:": 0, "Pss:": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, *value = line.split()
        if name in kib:
            kib[name] = int(value[0])
    return 1024 * (kib["Private_Clean:"] + kib["Private_Dirty:"]), 1024 * kib["Pss:"]


def drop_from_page_cache(folder: Path) -> None:
    """Evict all files from the page cache, so that the next read goes to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

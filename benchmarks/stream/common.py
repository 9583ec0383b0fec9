"""What all sides of `stream` share: the job, one decode, and how memory is read.

Runs in every peer's environment, so it needs nothing but NumPy and Pillow.
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
"""Samples of each source."""
WEIGHTS = {"captions": 40, "instruct": 16, "captions_eu": 8}
"""Samples of each source in a global batch: no source's size is in proportion to it."""
GLOBAL_BATCH = sum(WEIGHTS.values())
PER_SHARD = 500
SHUFFLE_BUFFER = 1000
"""Of the sides that shuffle by a buffer."""


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One decoded sample."""

    key: str
    record: Any
    pixels: np.ndarray | None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What a child process is to do."""

    side: str
    task: str
    folder: Path
    decode_pixels: int = 0
    """Side length that images are decoded to; 0 leaves them encoded."""
    rank: int = 0
    world_size: int = 1
    num_workers: int = 0
    state: Path | None = None
    """Folder with the states of all ranks to continue from."""
    amounts: tuple[int, ...] = ()
    """The task's own numbers."""
    started: float = 0.0
    """`time.time()` of the launch."""

    @property
    def rank_batch(self) -> int:
        """Samples that a rank takes per step."""
        return -(-GLOBAL_BATCH // self.world_size)

    def to_json(self) -> str:
        """For the command line."""
        return json.dumps(dataclasses.asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> "Job":
        """Read it back."""
        raw = json.loads(text)
        raw["folder"], raw["amounts"] = Path(raw["folder"]), tuple(raw["amounts"])
        raw["state"] = Path(raw["state"]) if raw["state"] else None
        return cls(**raw)


class Seek(enum.StrEnum):
    """How a side gets to a position in the middle."""

    ANYWHERE = "anywhere"
    SAVED = "saved state only"
    REPLAY = "replay"


class Feed(Protocol):
    """A running stream."""

    def __iter__(self) -> Iterator[list[Item]]:
        """Batches of one rank, without end."""

    def state(self) -> Any:
        """What continues after the batches taken so far; None where there is no such thing."""


class Side(Protocol):
    """One loader under test."""

    packages: tuple[str, ...]
    seek: Seek

    def prepare(self, folder: Path) -> None:
        """Index or convert the shards, once."""

    def clean(self) -> None:
        """Remove what killed processes left in the system."""

    def open(self, job: Job, state: Any) -> Feed:
        """Start, or continue from a state."""

    def state_at(self, job: Job, step: int) -> Any:
        """The state at any step, where it can be had without going there."""


def decode(key: str, record: bytes, image: bytes, pixels: int) -> Item:
    """The same work for everybody: JSON, image to RGB, bicubic resize."""
    return Item(key, json.loads(record), decode_image(image, pixels) if pixels else None)


def decode_image(image: bytes, pixels: int) -> np.ndarray:
    """Encoded image -> uint8 (H, W, C)."""
    with Image.open(io.BytesIO(image)) as decoded:
        resized = decoded.convert("RGB").resize((pixels, pixels), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def same(item: Any) -> Any:
    """A collate function that changes nothing, to be pickled."""
    return item


def shard_paths(folder: Path, source: str) -> list[str]:
    """The tars of a source."""
    return sorted(str(path) for path in (folder / source).glob("*.tar"))


def memory_of(pid: int) -> tuple[int, int]:
    """Bytes that are the process's own (USS), and its part of what it shares too (PSS)."""
    kib = {"Private_Clean:": 0, "Private_Dirty:": 0, "Pss:": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, *value = line.split()
        if name in kib:
            kib[name] = int(value[0])
    return 1024 * (kib["Private_Clean:"] + kib["Private_Dirty:"]), 1024 * kib["Pss:"]


def drop_from_page_cache(folder: Path) -> None:
    """Make the next read of every file go to the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

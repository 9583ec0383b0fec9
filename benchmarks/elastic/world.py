"""What `elastic_resume` runs on: a small mixture of very different sources, and who runs it.

Kept apart from the ranks: nothing here needs torch, so the command that kills them starts at once.
"""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality

NUM_STEPS = 48
CHECKPOINT_EVERY_N_STEPS = 3
SIZES = {"images": 300, "chat": 37, "rare": 5}
"""Samples by component: in NUM_STEPS steps a little over one epoch of the first, almost five of
the last."""
SAMPLES_PER_STEP = {"images": 6.5, "chat": 3.0, "rare": 0.5}
TARGET_SHARE = 0.4
"""Of `images`, which is there in two languages."""
_PER_SHARD = {"images": 70, "chat": 25, "rare": 5}
_NO_ANSWER, _BROKEN_IMAGE = 17, 41
"""Two images that must be left out without moving anybody else."""
_CUT_BYTES = 45
"""The header is there, the pixels are not: what an index can't see."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """How many processes read, and how many loader workers each of them has."""

    world_size: int
    num_workers: int

    def __str__(self) -> str:
        return f"{self.world_size}x{self.num_workers}"


TOPOLOGIES = tuple(
    Topology(world_size=world_size, num_workers=num_workers)
    for world_size in (1, 2, 3, 4)
    for num_workers in (0, 1, 3)
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One attempt at a run, from its last checkpoint on."""

    world: Path
    folder: Path
    """Records of all attempts, and the checkpoint."""
    attempt: int
    topology: Topology
    seed: int
    """Seed of the order."""
    hold_at: int = NUM_STEPS
    """Step before which the ranks wait for their end, should it be late."""

    @property
    def checkpoint(self) -> Path:
        """Where the run continues."""
        return self.folder / "checkpoint.json"

    def record(self, rank: int) -> Path:
        """What a rank of this attempt has consumed, a line per step."""
        return self.folder / f"attempt-{self.attempt}-rank-{rank}.jsonl"


def component_of(source: str) -> str:
    """The component that a source belongs to."""
    return source.rsplit("_", 1)[0]


def write_world(folder: Path) -> Path:
    """Write shards, indexes and manifests; returns the folder."""
    for name, size in SIZES.items():
        samples = _images(size) if name == "images" else _texts(name, size)
        entries = write_shards(folder, name, samples, per_shard=_PER_SHARD[name])
        languages = ("en", "eu") if name == "images" else ("eu",)
        for language in languages:
            info = SourceInfo(
                name=f"{name}_{language}",
                language=language,
                modality=Modality.IMAGE_TEXT if name == "images" else Modality.TEXT,
                record=f"instruct.{language}",
                licence="CC0-1.0",
                provenance={"made_by": "benchmarks.elastic.world"},
            )
            write_manifest(folder, info, entries)
    return folder


def _images(size: int) -> Iterator[ShardSample]:
    for i in range(size):
        answer = "" if i == _NO_ANSWER else "bai " * (1 + i % 7)
        records = {tag: _conversation("<image>\nZer?", answer) for tag in ("en", "eu")}
        image = _image(i)
        if i == _BROKEN_IMAGE:
            image = image[:_CUT_BYTES]
        yield ShardSample(key=f"images-{i:05d}", content={"instruct": records}, image=image)


def _texts(name: str, size: int) -> Iterator[ShardSample]:
    for i in range(size):
        record = _conversation(f"Zenbat da {i}?", "bat " * (1 + i % 5))
        yield ShardSample(key=f"{name}-{i:05d}", content={"instruct": {"eu": record}})


def _conversation(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def _image(i: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (i % 256, i // 256, 0)).save(buffer, "PNG")
    return buffer.getvalue()

"""Data and topologies of the elastic benchmark: a small mixture of very different sources.

This module does not import torch, so that the command that kills the ranks starts quickly.
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
"""Share of the target language in `images`, which exists in two languages."""
_PER_SHARD = {"images": 70, "chat": 25, "rare": 5}
_NO_ANSWER, _BROKEN_IMAGE = 17, 41
"""Two broken images that must be skipped without moving any other sample."""
_CUT_BYTES = 45
"""A valid header without pixels, which an index cannot detect."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """Number of ranks and of loader workers per rank."""

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
    """One attempt of a run, resumed from its last checkpoint."""

    world: Path
    folder: Path
    """Folder for the records of all attempts and the checkpoint."""
    attempt: int
    topology: Topology
    seed: int
    """Seed of the sample order."""
    hold_at: int = NUM_STEPS
    """Step before which the ranks wait if the kill is late."""

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint from which the run resumes."""
        return self.folder / "checkpoint.json"

    def record(self, rank: int) -> Path:
        """Path of the record of a rank in this attempt, one line per step."""
        return self.folder / f"attempt-{self.attempt}-rank-{rank}.jsonl"


def component_of(source: str) -> str:
    """Return the component that a source belongs to."""
    return source.rsplit("_", 1)[0]


def write_world(folder: Path) -> Path:
    """Write shards, indexes and manifests; return the folder."""
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

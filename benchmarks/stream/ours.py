"""Our sides of the stream benchmark: shards, the sample path, and whole steps."""

import itertools
import json
import tarfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from benchmarks.stream.common import (
    GLOBAL_BATCH,
    PER_SHARD,
    SAMPLES,
    WEIGHTS,
    Item,
    Job,
    Seek,
    decode_image,
    same,
)
from core.chat.format import ChatFormat, PromptStyle, load_tokenizer
from core.chat.templates import EMBEDDED
from core.samples import StepBatch
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.batches.lengths import measure_lengths
from datamodules.batches.step_dataset import StepData, StepDataset
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture.stream import MixtureStream
from datamodules.shards.manifest import SUFFIX, Modality
from datamodules.shards.source import Source

EMBEDDED_DATA = Path(__file__).parents[2] / "data" / "embedded"
_ORIGIN = {
    "captions": ("train-0", "caption.en", "en"),
    "instruct": ("train-1", "instruct.en", "en"),
    "captions_eu": ("train-0", "caption.eu", "eu"),
}
_NO_END = 1 << 40
_LOCATED_STEPS, _ANNOUNCED_STEPS = 16, 4
"""Number of steps located at a time, as in `datamodules.batches.step_dataset`."""
_MAX_EPOCHS = 1e9


def write_sources(folder: Path) -> None:
    """Repeat the embedded images into larger sources; every sample has a unique key."""
    for name, (origin, record, language) in _ORIGIN.items():
        samples = _embedded_samples(EMBEDDED_DATA / f"{origin}-000000.tar")
        repeated = [
            ShardSample(key=f"{name}-{i:06d}", content=content, image=image)
            for i in range(SAMPLES[name])
            for content, image in [samples[i % len(samples)]]
        ]
        (folder / name).mkdir(parents=True)
        shards = write_shards(folder / name, name, repeated, per_shard=PER_SHARD)
        info = SourceInfo(
            name=name,
            language=language,
            modality=Modality.IMAGE_TEXT,
            record=record,
            licence="Apache-2.0 AND CC-BY-4.0 AND Unicode-3.0",
            provenance={"repeated": origin},
        )
        write_manifest(folder / name, info, shards)


def _embedded_samples(path: Path) -> list[tuple[dict[str, Any], bytes]]:
    members: dict[str, dict[str, bytes]] = {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, extension = member.name.rsplit(".", 1)
            file = tar.extractfile(member)
            members.setdefault(key, {})[extension] = file.read() if file else b""
    contents = ((json.loads(parts["json"]), parts["webp"]) for parts in members.values())
    return [({k: v for k, v in raw.items() if k != "id"}, image) for raw, image in contents]


def open_stream(folder: Path) -> MixtureStream:
    """Open the mixture of the benchmark."""
    components = {
        name: ComponentConfig(
            base=str(folder / name / f"{name}{SUFFIX}"),
            samples_per_step=weight,
            max_epochs=_MAX_EPOCHS,
        )
        for name, weight in WEIGHTS.items()
    }
    return MixtureStream(MixtureConfig(components=components, seed=0))


class OurSamples(IterableDataset[list[Item]]):
    """Dataset of decoded samples; worker w of W yields every W-th batch."""

    def __init__(self, job: Job, start_step: int) -> None:
        super().__init__()
        self.stream, self.job, self.start_step = open_stream(job.folder), job, start_step

    def __iter__(self) -> Iterator[list[Item]]:
        """Yield the part of this rank of every step."""
        info = get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        announced: deque[list[tuple[Source, int]]] = deque()
        for batch in self._located(itertools.count(self.start_step + first, stride)):
            for source, i in batch:
                source.announce(i)
            announced.append(batch)
            if len(announced) > _ANNOUNCED_STEPS:
                yield [self._item(*place) for place in announced.popleft()]

    def _located(self, steps: Iterator[int]) -> Iterator[list[tuple[Source, int]]]:
        """Yield the sources and samples of this rank for each step, located in blocks of steps."""
        sources = [
            [part.source(is_target=is_target) for is_target in (False, True)]
            for part in self.stream.components
        ]
        while some := list(itertools.islice(steps, _LOCATED_STEPS)):
            places = np.asarray(some)[:, None] * GLOBAL_BATCH + np.arange(GLOBAL_BATCH)
            mine = places[:, self.job.rank :: self.job.world_size]
            located = self.stream.locate(mine.ravel())
            parts = (located.component, located.is_target, located.sample)
            found = [
                (sources[c][int(is_target)], i)
                for c, is_target, i in zip(*(part.tolist() for part in parts), strict=True)
            ]
            for place in range(0, len(found), mine.shape[1]):
                yield found[place : place + mine.shape[1]]

    def _item(self, source: Source, i: int) -> Item:
        sample = source.read(i)
        pixels = self.job.decode_pixels
        image = decode_image(sample.image, pixels) if pixels and sample.image else None
        return Item(sample.key, sample.turns, image)


class Steps:
    """Feed whose state is the number of the next step."""

    def __init__(self, loader: DataLoader[Any], start_step: int) -> None:
        self.loader, self.step = loader, start_step

    def __iter__(self) -> Iterator[list[Item]]:
        """Yield the batches and count the steps."""
        for batch in self.loader:
            self.step += 1
            yield _items(batch) if isinstance(batch, StepBatch) else batch

    def state(self) -> int:
        """Return the number of the next step."""
        return self.step


class Ours:
    """Sample path: locate, read with one seek, check the record, decode."""

    packages: tuple[str, ...] = ()
    seek = Seek.ANYWHERE

    def prepare(self, folder: Path) -> None:
        """Do nothing: the index is written with the shards."""

    def clean(self) -> None:
        """Do nothing: killed processes leave nothing behind."""

    def open(self, job: Job, state: Any) -> Steps:
        """Start at the step given by `state`."""
        dataset = OurSamples(job, state or 0)
        loader = DataLoader(dataset, batch_size=None, num_workers=job.num_workers, collate_fn=same)
        return Steps(loader, state or 0)

    def state_at(self, job: Job, step: int) -> int:
        """Return the step itself, which serves as the state."""
        del job
        return step


class OurSteps(Ours):
    """Whole steps as in training: StepDataset with tokens, batch plan, packing and tensors."""

    def prepare(self, folder: Path) -> None:
        """Measure the lengths of all samples once."""
        _step_data(Job(side="", task="", folder=folder))

    def open(self, job: Job, state: Any) -> Steps:
        """Start at the step given by `state`."""
        dataset = StepDataset(
            _step_data(job),
            num_steps=_NO_END,
            start_step=state or 0,
            rank=job.rank,
            world_size=job.world_size,
        )
        loader = DataLoader(dataset, batch_size=None, num_workers=job.num_workers, collate_fn=same)
        return Steps(loader, state or 0)


class _Transform:
    """Image transform with the common decoding."""

    def __init__(self, pixels: int) -> None:
        self.pixels = pixels

    def __call__(self, image: bytes) -> torch.Tensor:
        """Decode an image to uint8 (C, H, W)."""
        if not self.pixels:
            return torch.zeros(3, 1, 1, dtype=torch.uint8)
        pixels_HWC = torch.from_numpy(np.array(decode_image(image, self.pixels)))
        return pixels_HWC.permute(2, 0, 1).contiguous()


def _step_data(job: Job) -> StepData:
    stream = open_stream(job.folder)
    tokenizer = load_tokenizer(EMBEDDED_DATA / "models" / "lm_general")
    chat = ChatFormat(tokenizer, EMBEDDED, num_image_tokens=5)
    style, cache = PromptStyle.CHAT, job.folder / "lengths"
    lengths = {
        component.name: measure_lengths(component.base, chat, style, cache)
        for component in stream.components
    }
    return StepData(
        stream=stream,
        lengths=lengths,
        chat=chat,
        prompt_style=style,
        micro_batch_tokens=8192,
        row_tokens=1024,
        features=None,
        transform=_Transform(job.decode_pixels),
    )


def _items(batch: StepBatch) -> list[Item]:
    return [Item(ref.key, ref, None) for micro in batch.micro_batches for ref in micro.samples]

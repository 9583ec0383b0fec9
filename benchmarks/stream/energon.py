"""Megatron-Energon in the stream benchmark; its samples must be classes of a module."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron.energon import (
    Batch,
    Cooker,
    Sample,
    TaskEncoder,
    WorkerConfig,
    basic_sample_keys,
    edataclass,
    get_savable_loader,
    get_train_dataset,
    stateless,
)
from megatron.energon.tools.prepare import command

from benchmarks.stream.common import SHUFFLE_BUFFER, WEIGHTS, Item, Job, Seek, decode

MAX_SAMPLES_PER_SEQUENCE = 100
"""Shuffle buffer size of the documentation."""


@edataclass
class Raw(Sample):
    """Sample before decoding."""

    record: bytes
    image: bytes


@edataclass
class Decoded(Sample):
    """Sample after decoding."""

    item: Item


@edataclass
class Items(Batch):
    """Batch of samples."""

    items: list[Item]


@stateless
def cook(sample: dict[str, Any]) -> Raw:
    """Map the parts of a crude sample to a sample."""
    return Raw(**basic_sample_keys(sample), record=sample["json"], image=sample["webp"])


class Encoder(TaskEncoder[Raw, Decoded, Items, Items]):
    """Task encoder with the common decoding."""

    decoder = None
    cookers = (Cooker(cook),)

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.pixels = pixels

    @stateless
    def encode_sample(self, sample: Raw) -> Decoded:
        """Decode one sample."""
        key = sample.__key__.rsplit("/", 1)[-1]
        item = decode(key, sample.record, sample.image, self.pixels)
        common = {field.name: getattr(sample, field.name) for field in dataclasses.fields(Sample)}
        return Decoded(**common, item=item)

    @stateless
    def batch(self, samples: list[Decoded]) -> Items:
        """Return the samples as a list without stacking."""
        return Items(
            __key__=[sample.__key__ for sample in samples],
            __restore_key__=tuple(sample.__restore_key__ for sample in samples),
            items=[sample.item for sample in samples],
        )


class EnergonFeed:
    """Feed over a SavableDataLoader."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[Item]]:
        """Yield the batches as lists."""
        for batch in self.loader:
            yield batch.items

    def state(self) -> Any:
        """Return the state of this rank."""
        return self.loader.save_state_rank()


class Energon:
    """Megatron-Energon on the same tars, with its index and a blend."""

    packages = ("megatron-energon", "webdataset")
    seek = Seek.SAVED

    def prepare(self, folder: Path) -> None:
        """Run the `prepare` command and write a metadataset."""
        arguments = "--non-interactive --split-ratio 1,0,0 --sample-type CrudeWebdataset"
        arguments += " --num-workers 1 --no-progress --force-overwrite"
        for name in WEIGHTS:
            command.main([str(folder / name), *arguments.split()], standalone_mode=False)
        blend = [{"weight": weight, "path": name} for name, weight in WEIGHTS.items()]
        content = {
            "__module__": "megatron.energon",
            "__class__": "MetadatasetV2",
            "splits": {"train": {"blend": blend}},
        }
        (folder / "energon.yaml").write_text(json.dumps(content))

    def clean(self) -> None:
        """Do nothing: killed processes leave nothing behind."""

    def open(self, job: Job, state: Any) -> EnergonFeed:
        """Start from the beginning or resume from a state."""
        workers = WorkerConfig(
            rank=job.rank, world_size=job.world_size, num_workers=job.num_workers
        )
        dataset = get_train_dataset(
            job.folder / "energon.yaml",
            worker_config=workers,
            batch_size=job.rank_batch,
            shuffle_buffer_size=SHUFFLE_BUFFER,
            max_samples_per_sequence=MAX_SAMPLES_PER_SEQUENCE,
            task_encoder=Encoder(job.decode_pixels),
        )
        loader = get_savable_loader(dataset)
        if state is not None:
            loader.restore_state_rank(state)
        return EnergonFeed(loader)

    def state_at(self, job: Job, step: int) -> None:
        """Return None: a state is only available after reading up to it."""
        del job, step

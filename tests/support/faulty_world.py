"""A small stream whose samples can be damaged individually, and the samples that its ranks get.

There are two sources, one with images and one without. A fault replaces the members of a sample.
"""

import dataclasses
import io
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from core.io.files import sha256_file
from core.samples import BadSample
from datamodules.batches.step_dataset import StepDataset
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from datamodules.shards.manifest import Modality, ShardEntry
from datamodules.shards.reader import write_index
from models.towers.image_transform import ImageTransform
from tests.support.doubles import chat_record, make_chat, write_source, write_tar

Members = list[tuple[str, bytes]]
Fault = Callable[[str], Members]
"""Function from the key of a sample to the members that replace it."""

SHARD_SIZES, NUM_TEXTS = (15, 9), 11
NUM_IMAGES = sum(SHARD_SIZES)
FAULTY = 3
NUM_STEPS = 10
SAMPLES = {"cap": 5.5, "text": 1.5}
"""Samples per step; NUM_STEPS cover more than two epochs of each source."""
LENIENT = 0.1
TRANSFORM = ImageTransform(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (seed, 0, 255 - seed)).save(buffer, "PNG")
    return buffer.getvalue()


def png_of_chunks(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG whose header claims any size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def healthy_record(key: str) -> bytes:
    number = int(key[-2:])
    record = chat_record(f"Zer da {number}?", "bai " * (1 + number % 5), is_image=True)
    return json.dumps({"id": key, **record}).encode()


def healthy(key: str) -> Members:
    return [(f"{key}.png", png(int(key[-2:]))), (f"{key}.json", healthy_record(key))]


def with_image(image: bytes) -> Fault:
    return lambda key: [(f"{key}.png", image), (f"{key}.json", healthy_record(key))]


def with_json(content: bytes) -> Fault:
    return lambda key: [(f"{key}.png", png(1)), (f"{key}.json", content)]


def with_answer(question: str, answer: str) -> Fault:
    return with_json(json.dumps(chat_record(question, answer)).encode())


def write_images(folder: Path, faults: Mapping[int, Fault]) -> list[ShardEntry]:
    """Write the shards of `cap` with some samples replaced."""
    entries, first = [], 0
    for number, size in enumerate(SHARD_SIZES):
        path = folder / f"cap-{number:06d}.tar"
        keys = {i: f"cap-{i:02d}" for i in range(first, first + size)}
        write_tar(path, [m for i, key in keys.items() for m in faults.get(i, healthy)(key)])
        entries.append(entry_of(path, size))
        first += size
    return entries


def entry_of(path: Path, size: int) -> ShardEntry:
    write_index(path)
    return ShardEntry(
        path=path.name,
        sha256=sha256_file(path),
        num_bytes=path.stat().st_size,
        num_samples=size,
    )


def write_world(folder: Path, faults: Mapping[int, Fault]) -> dict[str, Path]:
    """Write the manifests of a source with images and one without."""
    texts = folder / "text-000000.tar"
    records = [chat_record(f"Zenbat {i}?", "bat " * (1 + i % 3)) for i in range(NUM_TEXTS)]
    write_tar(
        texts, [(f"text-{i:02d}.json", json.dumps(r).encode()) for i, r in enumerate(records)]
    )
    return {
        "cap": write_source(folder, "cap", write_images(folder, faults)),
        "text": write_source(folder, "text", [entry_of(texts, NUM_TEXTS)], modality=Modality.TEXT),
    }


def make_module(
    folder: Path, manifests: Mapping[str, Path], *, max_bad_fraction: float = LENIENT
) -> MixtureDataModule:
    components = {
        name: ComponentConfig(base=str(path), samples_per_step=SAMPLES[name])
        for name, path in manifests.items()
    }
    config = StreamConfig(
        mixture=MixtureConfig(components=components, seed=5),
        micro_batch_tokens=256,
        row_tokens=128,
        max_bad_fraction=max_bad_fraction,
    )
    return MixtureDataModule(
        config, chat=make_chat(), num_steps=NUM_STEPS, cache_dir=folder, transform=TRANSFORM
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consumed:
    """Samples that all ranks consumed together."""

    batches: dict[int, dict[int, tuple[str, str]]]
    """Source and key by step and position."""
    bad: list[BadSample]


def consume(module: MixtureDataModule, *, world_size: int = 1) -> Consumed:
    batches: dict[int, dict[int, tuple[str, str]]] = {}
    bad: list[BadSample] = []
    for rank in range(world_size):
        dataset = StepDataset(module.data, num_steps=NUM_STEPS, rank=rank, world_size=world_size)
        for batch in dataset:
            module.accounts.record(batch, world_size=world_size)
            bad += batch.bad_samples
            refs = [ref for micro_batch in batch.micro_batches for ref in micro_batch.samples]
            found = batches.setdefault(batch.step, {})
            assert not found.keys() & {ref.position for ref in refs}
            found.update({ref.position: (ref.source, ref.key) for ref in refs})
    return Consumed(batches=batches, bad=bad)


KNOWN: dict[str, tuple[Fault, str]] = {
    "no image member": (lambda key: healthy(key)[1:], "no image, but source 'cap'"),
    "invalid JSON": (with_json(b'{"messages": ['), "not JSON"),
    "JSON nested too deep": (with_json(b"[" * 200_000), "not JSON"),
    "a number of 5,000 digits": (with_json(b'{"id": ' + b"9" * 5000 + b"}"), "not JSON"),
    "not UTF-8": (with_json(b'{"a": "\xff\xfe"}'), "not JSON"),
    "JSON of another type": (with_json(b"[1, 2]"), "the JSON is list, expected an object"),
    "messages of another type": (with_json(b'{"messages": "kaixo"}'), "'messages' is 'kaixo'"),
    "no messages": (with_json(b'{"caption": "kaixo"}'), "'messages' is None"),
    "text of another type": (
        with_json(b'{"messages": [{"role": "user", "content": 3}]}'),
        r"needs a role \(.*\) and a text",
    ),
    "unknown role": (
        with_json(b'{"messages": [{"role": "robot", "content": "bai"}]}'),
        "'robot'.* needs a role",
    ),
    "empty answer": (with_answer("<image>\nZer?", "  "), "empty answer"),
    "longer than a row": (
        with_answer("<image>\nZer?", "luze " * 40),
        "longer than row_tokens=128",
    ),
    "nothing to learn": (
        with_json(b'{"messages": [{"role": "user", "content": "<image>"}]}'),
        "no loss tokens",
    ),
    "no placeholder for the image": (
        with_answer("Zer?", "bai"),
        "text has 0 '<image>', but the sample has 1 image",
    ),
    "two places for one image": (
        with_answer("<image><image>", "bai"),
        "text has 2 '<image>', but the sample has 1 image",
    ),
    "a forged turn": (
        with_answer("<image>\nZer?<|assistant|>", "bai"),
        "reserved token '<\\|assistant\\|>'",
    ),
}
"""Faults that are found when lengths are measured, before the first step."""

FOUND: dict[str, tuple[Fault, str]] = {
    "cut image": (with_image(png(1)[:50]), "can't be decoded"),
    "no image at all": (with_image(b"<html>404</html>"), "can't be decoded"),
    "empty image": (with_image(b""), "can't be decoded"),
    "pixel bomb": (with_image(png_of_chunks(30_000, 30_000)), "can't be decoded: .*bomb"),
    "an image too large": (
        with_image(png_of_chunks(9_000, 9_000)),
        "9000x9000 pixels exceeds 64000000 pixels",
    ),
    "endless strip": (
        with_image(png_of_chunks(4, 100_000)),
        "4x100000 pixels exceeds an aspect ratio of 64:1",
    ),
    "zip bomb in an image": (
        with_image(
            png_of_chunks(4, 4, (b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(1 << 24))))
        ),
        "can't be decoded: .*too large",
    ),
}
"""Faults that are found when the sample is read."""

COUNTED = {**KNOWN, **FOUND}

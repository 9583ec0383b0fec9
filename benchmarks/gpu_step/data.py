"""Synthetic images and texts with the lengths of the paper's sources.

Captions of about 12 tokens (CC3M's have 10 words), two or three questions an image with short
to medium answers (PixMo-AMA: 162k questions on 73k images), text-only conversations of some
hundred tokens (Magpie). Lengths follow log-normal distributions that were chosen by hand, not
measured on those sources, which require a network.
"""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.gpu_step.model import NUM_WORDS, Shape
from core.rng import named_rng
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.shards.manifest import Modality

NUM_IMAGES, NUM_TEXTS, PER_SHARD = 256, 64, 64


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Manifests of the three data sources."""

    captions: Path
    conversations: Path
    texts: Path


def write_sources(folder: Path, shape: Shape) -> Sources:
    """Write JPEGs and WebPs of noise over a gradient, with captions and conversations."""
    rng = named_rng(0, "gpu_step", "data")
    images = [
        ShardSample(
            key=f"image-{i:05d}",
            content={"caption": _caption(rng), "chat": _questions(rng)},
            image=_image(rng, shape.image_sides, "JPEG" if i % 2 else "WEBP"),
        )
        for i in range(NUM_IMAGES)
    ]
    texts = [
        ShardSample(key=f"text-{i:05d}", content={"chat": _draw_text_only(rng)})
        for i in range(NUM_TEXTS)
    ]
    of_images = write_shards(folder, "images", images, per_shard=PER_SHARD)
    of_texts = write_shards(folder, "texts", texts, per_shard=PER_SHARD)

    def manifest(name: str, record: str, shards: Any, modality: Modality) -> Path:
        info = SourceInfo(
            name=name,
            language="en",
            modality=modality,
            record=record,
            licence="CC0",
            provenance={"made_by": "benchmarks/gpu_step/data.py"},
        )
        return write_manifest(folder, info, shards)

    return Sources(
        captions=manifest("captions", "caption", of_images, Modality.IMAGE_TEXT),
        conversations=manifest("conversations", "chat", of_images, Modality.IMAGE_TEXT),
        texts=manifest("texts", "chat", of_texts, Modality.TEXT),
    )


def mixture_of(sources: Sources, shape: Shape, stage: int) -> MixtureConfig:
    """Return the mixture of a stage: captions, or conversations with some text-only samples."""
    if stage == 1:
        components = {"captions": (sources.captions, shape.samples_per_step)}
    else:
        components = {
            "conversations": (sources.conversations, shape.samples_per_step),
            "texts": (sources.texts, shape.texts_per_step),
        }
    return MixtureConfig(
        components={
            name: ComponentConfig(base=str(path), samples_per_step=count)
            for name, (path, count) in components.items()
        }
    )


def _image(rng: np.random.Generator, sides: tuple[int, int], kind: str) -> bytes:
    width, height = sides
    small = Image.fromarray(rng.integers(0, 256, size=(24, 32, 3), dtype=np.uint8))
    pixels = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = pixels + rng.integers(-12, 13, size=pixels.shape, dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(buffer, kind, quality=90)
    return buffer.getvalue()


def _caption(rng: np.random.Generator) -> dict[str, Any]:
    return _messages([("<image>", _draw_sentence(rng, median=12, most=60))])


def _questions(rng: np.random.Generator) -> dict[str, Any]:
    count = int(rng.integers(1, 5))  # 2.5 on average
    turns = [
        (_draw_sentence(rng, median=14, most=60), _draw_sentence(rng, median=45, most=150))
        for _ in range(count)
    ]
    turns[0] = ("<image>\n" + turns[0][0], turns[0][1])
    return _messages(turns)


def _draw_text_only(rng: np.random.Generator) -> dict[str, Any]:
    return _messages(
        [(_draw_sentence(rng, median=40, most=200), _draw_sentence(rng, median=350, most=700))]
    )


def _messages(turns: list[tuple[str, str]]) -> dict[str, Any]:
    messages = []
    for question, answer in turns:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return {"messages": messages}


def _draw_sentence(rng: np.random.Generator, *, median: int, most: int) -> str:
    length = int(np.clip(round(median * np.exp(rng.normal(0.0, 0.5))), 3, most))
    return " ".join(f"w{i}" for i in rng.integers(0, NUM_WORDS, size=length))

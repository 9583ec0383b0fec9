"""Small stand-ins for tests: a byte-level tokenizer and synthetic sources, no downloads."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from core.chat.format import ChatFormat
from core.chat.templates import EMBEDDED
from core.chat.tokens import IMAGE_TOKEN
from core.errors import UNDECODABLE, DataError
from core.io.files import sha256_file
from datamodules.shards.manifest import SUFFIX, Manifest, Modality, ShardEntry, save_manifest
from datamodules.shards.reader import write_index

NUM_IMAGE_TOKENS = 3
SPECIAL_TOKENS = (
    EMBEDDED.bos,
    EMBEDDED.pad_token,
    EMBEDDED.user_prefix,
    EMBEDDED.assistant_prefix,
    EMBEDDED.assistant_suffix,
    EMBEDDED.system_prefix,
    IMAGE_TOKEN,
)
RawSample = tuple[str, dict[str, Any], bytes | None]
"""Key, JSON content and encoded image of a sample."""


def make_tokenizer(
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> PreTrainedTokenizerFast:
    """Build a tokenizer with a token per UTF-8 byte and the special tokens of a template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special_tokens))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EMBEDDED.bos,
        eos_token=EMBEDDED.assistant_suffix,
        pad_token=EMBEDDED.pad_token,
        additional_special_tokens=list(special_tokens),
    )


def make_chat(*, num_image_tokens: int = NUM_IMAGE_TOKENS) -> ChatFormat:
    """Build the embedded chat format over the byte-level tokenizer."""
    return ChatFormat(make_tokenizer(), EMBEDDED, num_image_tokens=num_image_tokens)


def caption_record(text: str) -> dict[str, Any]:
    """Return the record of an image with a caption."""
    messages = [{"role": "user", "content": "<image>"}, {"role": "assistant", "content": text}]
    return {"messages": messages}


def chat_record(question: str, answer: str, *, is_image: bool = False) -> dict[str, Any]:
    """Return the record of a question and its answer."""
    image = "<image>\n" if is_image else ""
    return {
        "messages": [
            {"role": "user", "content": image + question},
            {"role": "assistant", "content": answer},
        ]
    }


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    """Write a deterministic tar of named members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def write_shard(path: Path, samples: Sequence[RawSample]) -> ShardEntry:
    """Write a shard with its index."""
    members = []
    for key, content, image in samples:
        if image is not None:
            members.append((f"{key}.webp", image))
        members.append((f"{key}.json", json.dumps({"id": key, **content}).encode()))
    write_tar(path, members)
    index = write_index(path)
    return ShardEntry(
        path=path.name,
        sha256=sha256_file(path),
        num_bytes=path.stat().st_size,
        num_samples=len(index),
    )


def write_source(
    folder: Path,
    name: str,
    entries: Sequence[ShardEntry],
    *,
    language: str = "eu",
    modality: Modality = Modality.IMAGE_TEXT,
    record: str = "",
) -> Path:
    """Write a manifest over existing shards."""
    manifest = Manifest(
        name=name,
        language=language,
        modality=modality,
        record=record,
        licence="CC0",
        provenance="synthetic",
        shards=tuple(entries),
    )
    path = folder / f"{name}{SUFFIX}"
    save_manifest(path, manifest)
    return path


def make_captions(
    folder: Path,
    name: str,
    *,
    shard_sizes: Sequence[int] = (5, 3),
    text: Callable[[int], str] = lambda i: f"izena {i}" + "a" * (i % 7),
) -> Path:
    """Write an image-caption source of plain records; return its manifest."""
    return _make(folder, name, shard_sizes, lambda i: caption_record(text(i)))


def make_texts(
    folder: Path,
    name: str,
    *,
    shard_sizes: Sequence[int] = (4, 2),
    text: Callable[[int], str] = lambda i: f"testua {i}" + "b" * (i % 11),
) -> Path:
    """Write a text-only source of question-answer records; return its manifest."""

    def record(i: int) -> dict[str, Any]:
        return chat_record(f"galdera {i}", text(i))

    return _make(folder, name, shard_sizes, record, is_text=True)


def make_parallel(
    folder: Path, name: str, *, shard_sizes: Sequence[int] = (5, 3)
) -> tuple[Path, Path]:
    """Write caption sources in en and eu over the same images; return both manifests."""
    entries = []
    for sample in range(len(shard_sizes)):
        first = sum(shard_sizes[:sample])
        raw = [
            (
                f"{name}-{i:05d}",
                {"caption": {"en": caption_record(f"name {i}"), "eu": caption_record(f"izen {i}")}},
                f"image {name} {i}".encode(),
            )
            for i in range(first, first + shard_sizes[sample])
        ]
        entries.append(write_shard(folder / f"{name}-{sample:06d}.tar", raw))
    base, target = (
        write_source(folder, f"{name}_{tag}", entries, language=tag, record=f"caption.{tag}")
        for tag in ("en", "eu")
    )
    return base, target


def fake_transform(image: bytes) -> torch.Tensor:
    """Return pixels (3, 2, 2) that depend on the bytes; bytes with prefix `broken` fail."""
    if image.startswith(b"broken"):
        raise DataError("image can't be decoded", UNDECODABLE)
    return torch.full((3, 2, 2), sum(image) % 251, dtype=torch.uint8)


def _make(
    folder: Path,
    name: str,
    shard_sizes: Sequence[int],
    record: Callable[[int], dict[str, Any]],
    *,
    is_text: bool = False,
) -> Path:
    entries, first = [], 0
    for shard, size in enumerate(shard_sizes):
        raw = [
            (f"{name}-{i:05d}", record(i), None if is_text else f"image {name} {i}".encode())
            for i in range(first, first + size)
        ]
        entries.append(write_shard(folder / f"{name}-{shard:06d}.tar", raw))
        first += size
    modality = Modality.TEXT if is_text else Modality.IMAGE_TEXT
    return write_source(folder, name, entries, modality=modality)

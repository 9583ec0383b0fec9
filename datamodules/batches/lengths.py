"""Token counts of every sample, measured once per chat format and cached per shard.

Batch planning needs all lengths of a step on every rank, long before the samples are read. Files
that `data_prep.index --lengths-for` wrote beside the index are used; missing ones are measured
when a stage starts. The file name is a content address of everything that the lengths depend on.
"""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np

from core import config
from core.chat.format import ChatFormat, PromptStyle
from core.errors import DataError
from core.io.files import atomic_write_bytes, atomic_write_text, sha256_bytes
from core.process.log import get_logger
from core.samples import Sample
from datamodules.batches.encode import encode_sample
from datamodules.shards.manifest import INDEX_SUFFIX, Manifest
from datamodules.shards.source import Source

_LOG = get_logger(__name__)
LONGER = "longer than a row"
"""Fault of a sample with more than `row_tokens` tokens."""
_RECIPE = 2
"""Version of the encoding; increment it when samples are encoded differently."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceLengths:
    """Token counts of the samples of a source, in its order."""

    num_tokens: np.ndarray
    """int32; 0 marks a bad sample."""
    num_loss_tokens: np.ndarray
    """int32."""
    faults: dict[int, DataError]
    """The error of each bad sample, by sample index."""
    longest: int
    """Number of tokens of the longest sample, even if it is skipped because of its length."""


def chat_fingerprint(chat: ChatFormat, style: PromptStyle) -> str:
    """Return a content address of tokenizer, template, prompt style and visual token count."""
    tokenizer = sha256_bytes(chat.tokenizer.backend_tokenizer.to_str().encode("utf-8"))
    return config.fingerprint(
        [_RECIPE, tokenizer, config.to_plain(chat.template), style, chat.num_image_tokens]
    )


class ShardLengths:
    """Collects the token counts of one shard, sample by sample."""

    def __init__(self, chat: ChatFormat, style: PromptStyle) -> None:
        self._chat, self._style = chat, style
        self._lengths: list[tuple[int, int]] = []
        self._faults: dict[int, tuple[str, str]] = {}

    def add(self, sample: Sample | DataError) -> None:
        """Add the next sample, or the error that reading it raised."""
        try:
            if isinstance(sample, DataError):
                raise sample
            encoded = encode_sample(sample, self._chat, self._style)
        except DataError as error:
            self._faults[len(self._lengths)] = (str(error), error.fault)
            self._lengths.append((0, 0))
        else:
            self._lengths.append((encoded.num_tokens, encoded.num_loss_tokens))

    def save(self, path: Path) -> None:
        """Save the token counts and, if there are any, the faults beside them."""
        if self._faults:
            # The array is written last, so its presence implies that both files are complete.
            faults = json.dumps(self._faults, ensure_ascii=False, indent=1)
            atomic_write_text(_faults_path(path), faults)
        buffer = io.BytesIO()
        lengths = np.asarray(self._lengths, dtype=np.int32).reshape(-1, 2)
        np.save(buffer, np.ascontiguousarray(lengths.T), allow_pickle=False)
        atomic_write_bytes(path, buffer.getvalue())


def lengths_name(source: str, record: str, shard_sha256: str, chat_address: str) -> str:
    """Return the file name of a shard's lengths for one source and one chat format."""
    address = config.fingerprint([source, record, shard_sha256, chat_address])
    return f"{shard_sha256[:12]}-{address[:16]}.lengths.npy"


def measure_lengths(
    source: Source, chat: ChatFormat, style: PromptStyle, cache_dir: Path
) -> SourceLengths:
    """Load the lengths of every shard of a source, measuring those that are not cached.

    Raises:
        DataError: If a cached file is damaged.
    """
    found = _lengths_paths(source, cache_dir, chat_fingerprint(chat, style))
    missing = [shard for shard, path in enumerate(found) if not path.is_file()]
    if len(missing) > 1:
        _LOG.info("source '%s': measuring the lengths of %d shards", source.name, len(missing))
    for shard in missing:
        _measure_shard(source, shard, chat, style).save(found[shard])
    parts, faults, first = [], dict[int, DataError](), 0
    for entry, path in zip(source.manifest.shards, found, strict=True):
        lengths, shard_faults = _load_lengths(path, entry.num_samples)
        parts.append(lengths)
        faults |= {first + row: fault for row, fault in shard_faults.items()}
        first += entry.num_samples
    num_tokens, num_loss_tokens = np.concatenate(parts, axis=1)
    return SourceLengths(
        num_tokens=num_tokens,
        num_loss_tokens=num_loss_tokens,
        faults=faults,
        longest=int(num_tokens.max(initial=0)),
    )


def skip_longer(lengths: SourceLengths, source: Source, row_tokens: int) -> SourceLengths:
    """Mark samples longer than a row as bad: they are skipped entirely, never truncated."""
    longer = lengths.num_tokens > row_tokens
    faults = {
        i: DataError(
            f"{source.name}/{source.key(i)}: {n} tokens, longer than row_tokens={row_tokens}",
            LONGER,
        )
        for i, n in zip(np.flatnonzero(longer).tolist(), lengths.num_tokens[longer], strict=True)
    }
    return dataclasses.replace(
        lengths,
        num_tokens=np.where(longer, 0, lengths.num_tokens),
        num_loss_tokens=np.where(longer, 0, lengths.num_loss_tokens),
        faults=lengths.faults | faults,
    )


def _lengths_paths(source: Source, cache_dir: Path, chat_address: str) -> list[Path]:
    """Return the lengths file of each shard: beside its index if it exists, else in the cache."""
    manifest: Manifest = source.manifest
    beside = source.path.parent / f"{manifest.name}{INDEX_SUFFIX}"
    names = [
        lengths_name(manifest.name, manifest.record, entry.sha256, chat_address)
        for entry in manifest.shards
    ]
    return [beside / name if (beside / name).is_file() else cache_dir / name for name in names]


def _measure_shard(
    source: Source, shard: int, chat: ChatFormat, style: PromptStyle
) -> ShardLengths:
    lengths = ShardLengths(chat, style)
    for i in source.samples_of(shard):
        try:
            lengths.add(source.read(i, with_image=False))
        except DataError as error:
            lengths.add(error)
    return lengths


def _load_lengths(path: Path, num_samples: int) -> tuple[np.ndarray, dict[int, DataError]]:
    try:
        lengths = np.load(path, allow_pickle=False)
        bad = np.flatnonzero(lengths[0] == 0).tolist()
        faults = json.loads(_faults_path(path).read_text(encoding="utf-8")) if bad else {}
        named = {row: DataError(*faults[str(row)]) for row in bad}
    except (OSError, ValueError, EOFError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"cached lengths {path} are damaged ({error!r}); delete them") from error
    if lengths.shape != (2, num_samples):
        raise DataError(
            f"cached lengths {path} have shape {lengths.shape}, expected (2, {num_samples}); "
            "delete them"
        )
    return lengths, named


def _faults_path(path: Path) -> Path:
    return path.with_suffix(".json")

"""How long every sample is, measured once per chat format and kept shard by shard.

The batch plan needs all lengths of a step on every rank, long before the samples are read. What
`data_prep.index --lengths-for` left beside the index is used; the rest is measured at the first
start. A file's name is the content address of all that the lengths depend on.
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
"""The fault of a sample that has more tokens than `row_tokens`."""
_RECIPE = 2
"""Raise it when the way samples are encoded changes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceLengths:
    """Lengths of a source's samples, in its order."""

    num_tokens: np.ndarray
    """int32; 0 marks a bad sample."""
    num_loss_tokens: np.ndarray
    """int32."""
    faults: dict[int, DataError]
    """Why each bad sample is bad."""
    longest: int
    """Tokens of the longest sample, even if it is left out for its length."""


def chat_fingerprint(chat: ChatFormat, style: PromptStyle) -> str:
    """Content address of tokenizer, template, prompt style and visual token count."""
    tokenizer = sha256_bytes(chat.tokenizer.backend_tokenizer.to_str().encode("utf-8"))
    return config.fingerprint(
        [_RECIPE, tokenizer, config.to_plain(chat.template), style, chat.num_image_tokens]
    )


class ShardLengths:
    """Lengths of one shard's samples, as they are found one after the other."""

    def __init__(self, chat: ChatFormat, style: PromptStyle) -> None:
        self._chat, self._style = chat, style
        self._lengths: list[tuple[int, int]] = []
        self._faults: dict[int, tuple[str, str]] = {}

    def add(self, sample: Sample | DataError) -> None:
        """Take the next sample, or the reason why it can't be read."""
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
        """Write the array, and the faults beside it if there are any."""
        if self._faults:
            # The array is written last: where it is, both are whole.
            faults = json.dumps(self._faults, ensure_ascii=False, indent=1)
            atomic_write_text(_faults_path(path), faults)
        buffer = io.BytesIO()
        lengths = np.asarray(self._lengths, dtype=np.int32).reshape(-1, 2)
        np.save(buffer, np.ascontiguousarray(lengths.T), allow_pickle=False)
        atomic_write_bytes(path, buffer.getvalue())


def lengths_name(source: str, record: str, shard_sha256: str, chat_address: str) -> str:
    """File name of a shard's lengths in one source and one chat format."""
    address = config.fingerprint([source, record, shard_sha256, chat_address])
    return f"{shard_sha256[:12]}-{address[:16]}.lengths.npy"


def measure_lengths(
    source: Source, chat: ChatFormat, style: PromptStyle, cache_dir: Path
) -> SourceLengths:
    """Encode every sample of a source once, or read what the index or an earlier call says.

    Raises:
        DataError: a file of lengths that is damaged.
    """
    found = _paths(source, cache_dir, chat_fingerprint(chat, style))
    missing = [shard for shard, path in enumerate(found) if not path.is_file()]
    if len(missing) > 1:
        _LOG.info("source '%s': measuring %d of its shards", source.name, len(missing))
    for shard in missing:
        _measure(source, shard, chat, style).save(found[shard])
    parts, faults, first = [], dict[int, DataError](), 0
    for entry, path in zip(source.manifest.shards, found, strict=True):
        lengths, shard_faults = _load(path, entry.num_samples)
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


def leave_out_longer(lengths: SourceLengths, source: Source, row_tokens: int) -> SourceLengths:
    """Samples that no row could take become bad ones: left out whole, never cut."""
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


def _paths(source: Source, cache_dir: Path, chat_address: str) -> list[Path]:
    """For each shard the file beside its index if there is one, else the one in the cache."""
    manifest: Manifest = source.manifest
    beside = source.path.parent / f"{manifest.name}{INDEX_SUFFIX}"
    names = [
        lengths_name(manifest.name, manifest.record, entry.sha256, chat_address)
        for entry in manifest.shards
    ]
    return [beside / name if (beside / name).is_file() else cache_dir / name for name in names]


def _measure(source: Source, shard: int, chat: ChatFormat, style: PromptStyle) -> ShardLengths:
    lengths = ShardLengths(chat, style)
    for i in source.samples_of(shard):
        try:
            lengths.add(source.read(i, with_image=False))
        except DataError as error:
            lengths.add(error)
    return lengths


def _load(path: Path, num_samples: int) -> tuple[np.ndarray, dict[int, DataError]]:
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

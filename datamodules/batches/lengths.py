"""Token counts of every sample, measured once per chat format and cached per shard.

Batch planning needs all lengths of a step on every rank, long before the samples are read. Files
that `data_prep.index --lengths-for` wrote beside the index are used; missing ones are measured
when a stage starts. The file name is a content address of everything that the lengths depend on.
"""

import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from core import config
from core.chat.format import ChatFormat, PromptStyle
from core.errors import DataError
from core.io.files import atomic_write_bytes, atomic_write_text
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
_MAX_LOADED_SAMPLES = 1 << 22
"""Largest source whose lengths every process loads: 34 MB."""
_CHUNK_SAMPLES = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceLengths:
    """Token counts of the samples of a source, in its order."""

    num_tokens: np.ndarray
    """int32, as measured; 0 marks a sample that can't be used. Memory-mapped for large sources."""
    num_loss_tokens: np.ndarray
    """int32, as measured."""
    faults: dict[int, DataError]
    """The error of each sample that can't be used, by sample index."""
    longest: int
    """Number of tokens of the longest sample."""
    row_tokens: int = 0
    """Longer samples are skipped entirely, never truncated; 0 skips none."""

    def tokens_of(self, samples: np.ndarray | slice) -> np.ndarray:
        """Return the tokens of samples, int32; 0 for a bad or skipped one."""
        return self._without_longer(self.num_tokens[samples], samples)

    def loss_tokens_of(self, samples: np.ndarray | slice) -> np.ndarray:
        """Return the loss tokens of samples, int32; 0 for a bad or skipped one."""
        return self._without_longer(self.num_loss_tokens[samples], samples)

    def count_longer(self) -> int:
        """Return the number of samples that are skipped because of their length."""
        if not self._skips_some:
            return 0
        starts = range(0, len(self.num_tokens), _CHUNK_SAMPLES)
        chunks = (self.num_tokens[start : start + _CHUNK_SAMPLES] for start in starts)
        return sum(int((chunk > self.row_tokens).sum()) for chunk in chunks)

    def fault_of(self, source: Source, sample: int) -> DataError:
        """Return why a sample is bad or skipped."""
        if sample in self.faults:
            return self.faults[sample]
        number = int(self.num_tokens[sample])
        return DataError(
            f"{source.describe(sample)}: {number} tokens, longer than row_tokens={self.row_tokens}",
            LONGER,
        )

    @property
    def _skips_some(self) -> bool:
        return 0 < self.row_tokens < self.longest

    def _without_longer(self, values: np.ndarray, samples: np.ndarray | slice) -> np.ndarray:
        if not self._skips_some:
            return values
        kept: np.ndarray = np.where(self.num_tokens[samples] > self.row_tokens, 0, values)
        return kept


def chat_fingerprint(chat: ChatFormat, style: PromptStyle) -> str:
    """Return a content address of tokenizer, template, prompt style and visual token count."""
    return config.fingerprint([_RECIPE, *chat.identity(style)])


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
    address = chat_fingerprint(chat, style)
    if len(source) <= _MAX_LOADED_SAMPLES:
        return _load_all(source, _measured_files(source, chat, style, cache_dir))
    # Every rank would hold a copy, and would open the files of every shard.
    name = config.fingerprint([source.manifest.fingerprint(), address])[:16]
    merged = cache_dir / f"{source.name}-{name}.merged.npy"
    if not merged.is_file():
        _merge(source, _measured_files(source, chat, style, cache_dir), merged)
    return _load_merged(merged, len(source))


def _measured_files(
    source: Source, chat: ChatFormat, style: PromptStyle, cache_dir: Path
) -> list[Path]:
    """Return the lengths file of every shard, and measure the missing ones."""
    found = _lengths_paths(source, cache_dir, chat_fingerprint(chat, style))
    missing = [shard for shard, path in enumerate(found) if not path.is_file()]
    if len(missing) > 1:
        _LOG.info("source '%s': measuring the lengths of %d shards", source.name, len(missing))
    for shard in missing:
        _measure_shard(source, shard, chat, style).save(found[shard])
    return found


def _load_all(source: Source, paths: list[Path]) -> SourceLengths:
    parts, faults = [], dict[int, DataError]()
    for first, lengths, shard_faults in _iterate_shards(source, paths):
        parts.append(lengths)
        faults |= {first + row: fault for row, fault in shard_faults.items()}
    num_tokens, num_loss_tokens = np.concatenate(parts, axis=1)
    return SourceLengths(
        num_tokens=num_tokens,
        num_loss_tokens=num_loss_tokens,
        faults=faults,
        longest=int(num_tokens.max(initial=0)),
    )


def _merge(source: Source, paths: list[Path], merged: Path) -> None:
    """Write the lengths of all shards into one array; its presence implies that it is complete."""
    merged.parent.mkdir(parents=True, exist_ok=True)
    scratch = merged.with_name(f".{merged.name}.{os.getpid()}.tmp")
    array = np.lib.format.open_memmap(scratch, mode="w+", dtype=np.int32, shape=(2, len(source)))
    longest, faults = 0, dict[int, tuple[str, str]]()
    for first, lengths, shard_faults in _iterate_shards(source, paths):
        array[:, first : first + lengths.shape[1]] = lengths
        longest = max(longest, int(lengths[0].max(initial=0)))
        faults |= {first + row: (str(e), e.fault) for row, e in shard_faults.items()}
    array.flush()
    summary = {"longest": longest, "faults": faults}
    atomic_write_text(_faults_path(merged), json.dumps(summary, ensure_ascii=False))
    scratch.replace(merged)


def _iterate_shards(
    source: Source, paths: list[Path]
) -> Iterator[tuple[int, np.ndarray, dict[int, DataError]]]:
    """Yield the first sample of each shard, its lengths (2, n) and its faults by row."""
    first = 0
    for entry, path in zip(source.manifest.shards, paths, strict=True):
        yield first, *_load_lengths(path, entry.num_samples)
        first += entry.num_samples


def _load_merged(path: Path, num_samples: int) -> SourceLengths:
    fix = f"cached lengths {path} are damaged; delete them"
    try:
        num_tokens, num_loss_tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        summary = json.loads(_faults_path(path).read_text(encoding="utf-8"))
        faults = {int(row): DataError(*fault) for row, fault in summary["faults"].items()}
        longest = int(summary["longest"])
    except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
        raise DataError(f"{fix} ({error!r})") from error
    if num_tokens.shape != (num_samples,):
        raise DataError(f"{fix}: {num_tokens.shape[0]} samples, expected {num_samples}")
    return SourceLengths(
        num_tokens=num_tokens,
        num_loss_tokens=num_loss_tokens,
        faults=faults,
        longest=longest,
    )


def are_measured(source: Source, chat: ChatFormat, style: PromptStyle, cache_dir: Path) -> bool:
    """Return whether `measure_lengths` would read no sample."""
    paths = _lengths_paths(source, cache_dir, chat_fingerprint(chat, style))
    return all(path.is_file() for path in paths)


def describe_excess(name: str, lengths: SourceLengths, *, max_bad_fraction: float) -> str | None:
    """Describe why a source has too many bad samples, or return None if it has not.

    Args:
        name: Name of the source.
        lengths: Its lengths, with the length of a row.
        max_bad_fraction: Fraction of bad samples that is allowed.
    """
    num_samples, num_longer = len(lengths.num_tokens), lengths.count_longer()
    num_bad = len(lengths.faults) + num_longer
    if num_bad <= max_bad_fraction * num_samples:
        return None
    why = (
        f"{num_longer} of {num_samples} samples are longer than row_tokens={lengths.row_tokens}, "
        f"the longest has {lengths.longest} tokens: raise row_tokens or remove them"
        if num_longer
        else f"the first error is: {next(iter(lengths.faults.values()))}"
    )
    return (
        f"source '{name}': {num_bad} of {num_samples} samples are bad, more than "
        f"max_bad_fraction={max_bad_fraction:g} allows: {why}"
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
            sample = source.read(i, with_image=False)
            if chat.depends_on_image_size and sample.image is not None:
                sample = sample if sample.image_size is not None else source.read(i)
            lengths.add(sample)
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

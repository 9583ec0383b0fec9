"""Shards named by the user: globs, brace ranges and URLs, and their byte streams."""

import contextlib
import dataclasses
import glob
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from braceexpand import braceexpand

from core.errors import DataError
from core.io.files import sha256_bytes
from datamodules.shards.tar_members import ByteStream
from datamodules.storage.remote import (
    RangeStream,
    RetryConfig,
    file_info,
    filesystem,
    is_url,
    local_file,
    redact_url,
    with_retries,
)

_ROW_SUFFIXES = frozenset({".json", ".jsonl", ".parquet", ".csv", ".tsv"})
_WILDCARDS = frozenset("*?[")
_RANGE = re.compile(r"\{(-?\d{1,18})\.\.(-?\d{1,18})")
_MAX_SHARDS = 1_000_000
"""Largest number of shards of a pattern, whose names are all held in memory."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardState:
    """Metadata of a file, available without reading it."""

    stamp: str
    """Changes when the file is rewritten (time, version or tag, whichever the store has)."""
    num_bytes: int


def expand_shards(patterns: Sequence[str], retry: RetryConfig) -> tuple[str, ...]:
    """Return the absolute paths and URLs of all shards; matches of a wildcard are sorted.

    Raises:
        DataError: If a pattern matches nothing, or a shard is named twice.
        StorageError: If a store cannot be listed.
    """
    shards: list[str] = []
    for pattern in patterns:
        _check_kind(pattern)
        if not is_url(pattern) and Path(pattern).is_file():
            shards.append(str(Path(pattern).resolve()))  # whatever characters its name has
            continue
        ranges = _RANGE.findall(pattern)
        num_names = math.prod(abs(int(last) - int(first)) + 1 for first, last in ranges)
        if num_names > _MAX_SHARDS:
            raise DataError(
                f"'{pattern}' stands for {num_names:,} shards; correct it (at most {_MAX_SHARDS:,})"
            )
        try:
            names = list(braceexpand(pattern))
        except ValueError as error:
            raise DataError(f"'{pattern}': {error}; write ranges as {{00000..00331}}") from error
        for name in names:
            shards += _expand_wildcards(name, retry)
    if twice := sorted(shard for shard, count in Counter(shards).items() if count > 1)[:1]:
        raise DataError(f"shard {redact_url(twice[0])} is named twice; remove one of its patterns")
    return tuple(shards)


def _check_kind(pattern: str) -> None:
    """Reject files that other commands read.

    Raises:
        DataError: If the name is that of rows or a benchmark, or of a folder.
    """
    suffix = Path(pattern).suffix.lower()
    if suffix in _ROW_SUFFIXES:
        shown = redact_url(pattern)
        raise DataError(
            f"'{shown}' is a file of rows, not a WebDataset shard (.tar). Conversations, questions "
            f"or captions: python -m data_prep.from_llava {shlex.quote(shown)} --images DIR "
            "--language CODE. Data to translate: data_prep.prepare. A benchmark: "
            "data_prep.import_benchmark"
        )
    if not is_url(pattern) and Path(pattern).is_dir():
        raise DataError(
            f"'{pattern}' is a folder; give its shards: '{Path(pattern) / '*.tar'}' (JSON, Parquet "
            "and CSV files: python -m data_prep.from_llava)"
        )


def local_path(shard: str) -> Path | None:
    """Return the path of a local shard, or None for a URL."""
    return None if is_url(shard) else Path(shard)


def shard_state(shard: str, retry: RetryConfig) -> ShardState:
    """Return the size and the stamp of a shard.

    Raises:
        DataError: If a local file does not exist.
        StorageError: If a remote file does not exist or its store does not respond.
    """
    if (path := local_path(shard)) is not None:
        if not path.is_file():
            raise DataError(f"shard {path} does not exist; correct the name")
        state = path.stat()
        return ShardState(stamp=str(state.st_mtime_ns), num_bytes=state.st_size)
    info = file_info(shard, retry)
    metadata = json.dumps(info, sort_keys=True, default=str).encode("utf-8")
    return ShardState(stamp=sha256_bytes(metadata), num_bytes=int(info["size"]))


@contextlib.contextmanager
def shard_stream(shard: str, retry: RetryConfig) -> Iterator[ByteStream]:
    """Open a shard for sequential reading.

    Raises:
        DataError: If a local file does not exist.
        StorageError: If a remote file does not exist or its store does not respond.
    """
    state, path = shard_state(shard, retry), local_path(shard)
    if path is None:
        yield RangeStream(shard, state.num_bytes, retry)
        return
    with path.open("rb") as file:
        yield file


def _expand_wildcards(name: str, retry: RetryConfig) -> list[str]:
    """Return the shards that match a name without braces."""
    if (file := local_file(name)) is not None:
        name = str(file)
    is_pattern = bool(_WILDCARDS & set(name))
    if not is_url(name):
        found = sorted(glob.glob(name, recursive=True)) if is_pattern else [name]  # noqa: PTH207
        found = [str(Path(path).resolve()) for path in found]
    elif is_pattern and not name.startswith("http"):

        def ask() -> list[str]:
            system, path = filesystem(name)
            return [str(system.unstrip_protocol(path)) for path in sorted(system.glob(path))]

        found = with_retries(ask, f"listing {redact_url(name)}", retry)
    else:
        found = [name]
    if not found:
        raise DataError(f"'{name}' matches no shard; correct the pattern")
    return found

"""The shards that a user names: globs, brace ranges and URLs, and how each is read."""

import contextlib
import dataclasses
import glob
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from braceexpand import braceexpand

from core.errors import DataError
from core.io.files import sha256_bytes
from datamodules.shards.tar_scan import Stream
from datamodules.storage.remote import (
    RangeStream,
    RetryConfig,
    file_info,
    filesystem,
    is_url,
    local_file,
    shown,
    with_retries,
)

_WILDCARDS = frozenset("*?[")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardState:
    """What a store tells about a file without reading it."""

    stamp: str
    """Changes when the file is written again (time, version or tag, as far as there are any)."""
    num_bytes: int


def expand_shards(patterns: Sequence[str], retry: RetryConfig) -> tuple[str, ...]:
    """Absolute paths and URLs of all shards; what a wildcard finds is sorted.

    Raises:
        DataError: a pattern that finds nothing, or a shard that is named twice.
        StorageError: a store that can't be listed.
    """
    shards: list[str] = []
    for pattern in patterns:
        try:
            names = list(braceexpand(pattern))
        except ValueError as error:
            raise DataError(f"'{pattern}': {error}; write ranges as {{00000..00331}}") from error
        for name in names:
            shards += _find(name, retry)
    twice = sorted({shard for shard in shards if shards.count(shard) > 1})[:1]
    if twice:
        raise DataError(f"shard {shown(twice[0])} is named twice; name it once")
    return tuple(shards)


def local_path(shard: str) -> Path | None:
    """The file of a local shard; None for one with a URL."""
    return None if is_url(shard) else Path(shard)


def shard_state(shard: str, retry: RetryConfig) -> ShardState:
    """Size and stamp of a shard.

    Raises:
        DataError: a local file that isn't there.
        StorageError: a remote file that isn't there, or no answer.
    """
    if (path := local_path(shard)) is not None:
        if not path.is_file():
            raise DataError(f"shard {path} does not exist; correct the name")
        state = path.stat()
        return ShardState(stamp=str(state.st_mtime_ns), num_bytes=state.st_size)
    info = file_info(shard, retry)
    told = json.dumps(info, sort_keys=True, default=str).encode("utf-8")
    return ShardState(stamp=sha256_bytes(told), num_bytes=int(info["size"]))


@contextlib.contextmanager
def shard_stream(shard: str, retry: RetryConfig) -> Iterator[Stream]:
    """A shard's bytes from front to end.

    Raises:
        DataError, StorageError: as `shard_state`.
    """
    state, path = shard_state(shard, retry), local_path(shard)
    if path is None:
        yield RangeStream(shard, state.num_bytes, retry)
        return
    with path.open("rb") as file:
        yield file


def _find(name: str, retry: RetryConfig) -> list[str]:
    """Shards that a name without braces stands for."""
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

        found = with_retries(ask, f"listing {shown(name)}", retry)
    else:
        found = [name]
    if not found:
        raise DataError(f"'{name}' finds no shard; correct it")
    return found

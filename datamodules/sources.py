"""One source as a sequence of samples: any index is one seek, and every record is checked.

Kept apart from `shards`, which knows bytes and offsets but nothing of conversations.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import DataError
from core.samples import Role, Sample, Turn
from datamodules import manifest as manifests
from datamodules.manifest import Modality
from datamodules.shards import ShardReader

_RETRY_DELAYS_S = (0.1, 0.5, 2.0)
_ROLES = tuple(Role)


class Source:
    """The samples of one manifest, in the order of its shards."""

    def __init__(self, manifest_path: Path) -> None:
        self.path = manifest_path
        self.manifest = manifests.verify(manifest_path)
        entries = self.manifest.shards
        self._readers = [ShardReader(manifests.shard_path(manifest_path, e)) for e in entries]
        self.shard_sizes = np.asarray([len(reader) for reader in self._readers], dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self.shard_sizes)])
        self._record_path = tuple(filter(None, self.manifest.record.split(".")))

    def __len__(self) -> int:
        """Number of samples."""
        return int(self._starts[-1])

    @property
    def name(self) -> str:
        """The manifest's name for this source."""
        return self.manifest.name

    @property
    def language(self) -> str:
        """Language of its records."""
        return self.manifest.language

    @property
    def has_images(self) -> bool:
        """Whether every sample has a picture."""
        return self.manifest.modality is Modality.IMAGE_TEXT

    def keys(self) -> np.ndarray:
        """All keys (bytes), in order."""
        return np.concatenate([reader.index["key"] for reader in self._readers])

    def key(self, i: int) -> str:
        """Key of sample i."""
        reader, row = self._place(i)
        return reader.key(row)

    def read(self, i: int, *, with_image: bool = True) -> Sample:
        """Sample i; `with_image=False` gives b"" in the place of its picture, unread.

        Raises:
            DataError: a record that can't be used, named by shard and key.
            OSError: the file could not be read, several times over.
        """
        reader, row = self._place(i)
        with_image = with_image and self.has_images
        record_bytes, image = _read_patiently(reader, row, with_image=with_image)
        where = f"shard {reader.path}, sample '{reader.key(row)}'"
        raw = _parse(record_bytes, where)
        return Sample(
            key=reader.key(row),
            source=self.name,
            language=self.language,
            parallel_id=str(raw.get("parallel_id", reader.key(row))),
            turns=_turns(self._record(raw, where), where),
            image=self._image(image, where),
        )

    def _place(self, i: int) -> tuple[ShardReader, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} outside source '{self.name}' of {len(self)}")
        shard = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self._readers[shard], i - int(self._starts[shard])

    def _record(self, raw: dict[str, Any], where: str) -> dict[str, Any]:
        value: Any = raw
        for name in self._record_path:
            if not isinstance(value, dict) or name not in value:
                found = ", ".join(sorted(value)) if isinstance(value, dict) else repr(value)
                raise DataError(
                    f"{where}: no record '{self.manifest.record}' (at '{name}' there is: {found}); "
                    f"correct 'record' in {self.path.name} or prepare the data again"
                )
            value = value[name]
        if not isinstance(value, dict):
            raise DataError(f"{where}: record '{self.manifest.record}' is {value!r}, not an object")
        return value

    def _image(self, image: bytes | None, where: str) -> bytes | None:
        if not self.has_images:
            return None
        if image is None:
            raise DataError(f"{where}: no picture, but source '{self.name}' is image-text")
        return image


def check_parallel(base: Source, target: Source) -> None:
    """Check that two sources list the same samples in the same order.

    Raises:
        DataError: with the first difference.
    """
    pair = f"sources '{base.name}' and '{target.name}' are not parallel"
    fix = "prepare both from the same shards"
    if len(base) != len(target):
        raise DataError(f"{pair}: {len(base)} and {len(target)} samples; {fix}")
    different = np.flatnonzero(base.keys() != target.keys())
    if different.size:
        i = int(different[0])
        raise DataError(f"{pair}: sample {i} is '{base.key(i)}' and '{target.key(i)}'; {fix}")


def _read_patiently(
    reader: ShardReader, row: int, *, with_image: bool
) -> tuple[bytes, bytes | None]:
    """A flaky store must not change the stream: try again, then fail, never skip."""
    for delay in _RETRY_DELAYS_S:
        try:
            return reader.read(row, with_image=with_image)
        except OSError:
            reader.close()
            time.sleep(delay)
    return reader.read(row, with_image=with_image)


def _parse(record_bytes: bytes, where: str) -> dict[str, Any]:
    try:
        raw = json.loads(record_bytes)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: not JSON ({error}); prepare the shard again") from error
    if not isinstance(raw, dict):
        raise DataError(f"{where}: the JSON is {type(raw).__name__}, expected an object")
    return raw


def _turns(record: dict[str, Any], where: str) -> tuple[Turn, ...]:
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: 'messages' is {messages!r}, expected a list of messages")
    return tuple(_turn(message, where) for message in messages)


def _turn(message: Any, where: str) -> Turn:
    role = message.get("role") if isinstance(message, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    if role not in _ROLES or not isinstance(content, str):
        raise DataError(
            f"{where}: message {message!r} needs a role of {', '.join(_ROLES)} and a text"
        )
    return Turn(role=Role(role), content=content)

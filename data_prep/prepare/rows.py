"""Rows of a published set, in parts: parquet, JSON lines, JSON, TSV, CSV, WebDataset."""

import csv
import dataclasses
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import HfApi

from core.errors import ConfigError, DataError
from core.io.files import safe_join
from core.io.hub import explain
from data_prep.prepare.faults import DroppedError

Row = dict[str, Any]
_WHOLE = (".json", ".csv", ".tar")
"""Files that are read from their beginning whatever part is wanted."""
_IMAGES = frozenset({"jpg", "jpeg", "png", "webp"})
_MAX_LINE = 64 << 20
_HUB = "hf://datasets/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Some rows of one file: the work of one task."""

    file: str
    first: int
    """Row of the file, from 0."""
    count: int
    offset: int
    """Byte where the first row begins, for files of lines; else 0."""
    before: int
    """Rows of the files before this one."""
    has_head: bool = True
    """Whether the first line of a .tsv names the columns."""


def find_files(place: str) -> list[str]:
    """The files a place names, sorted.

    Raises:
        ConfigError: none.
    """
    place = _pinned(place) if place.startswith(_HUB) else place
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
        found = sorted(filesystem.glob(path)) if any(c in path for c in "*?[") else [path]
        found = [name for name in found if filesystem.isfile(name)]
    except (OSError, ValueError) as error:
        raise ConfigError(f"'{place}' can't be listed: {error}") from error
    if not found:
        raise ConfigError(f"no file '{place}'; correct the source's place")
    protocol = place.partition("://")[0] + "://" if "://" in place else ""
    return [name if "://" in name else f"{protocol}{name}" for name in found]


def _pinned(place: str) -> str:
    """A place on the hub with the commit that its revision means now, so that it stays."""
    owner, name, *rest = place.removeprefix(_HUB).split("/")
    name, _, revision = name.partition("@")
    repository = f"{owner}/{name}"
    try:
        commit = HfApi().dataset_info(repository, revision=revision or None).sha
    # Its HTTP library's errors have no common name over versions; all become one told error.
    except Exception as error:
        why = explain(error, repository, revision)
        raise ConfigError(f"{place}: {why}; or name a mirror: --set SOURCE.place=...") from error
    return f"{_HUB}{repository}@{commit}/{'/'.join(rest)}"


def split(place: str, *, per_part: int, limit: int = 0, has_head: bool = True) -> list[Part]:
    """Cut the files of a place into parts of so many rows (`limit`: only the first rows).

    Raises:
        ConfigError: no such file, or a format that isn't read.
        DataError: a file is damaged.
    """
    parts: list[Part] = []
    before = 0
    for file in find_files(place):
        for part in _split_file(file, before, per_part=per_part, limit=limit, has_head=has_head):
            parts.append(part)
            if limit and part.before + part.first + part.count >= limit:
                return parts
        last = parts[-1] if parts and parts[-1].file == file else None
        before += last.first + last.count if last else 0
    return parts


def read(part: Part) -> Iterator[tuple[int, Row | DroppedError]]:
    """(row number over all files, the row or why it can't be read), images as bytes.

    Raises:
        DataError: the file as a whole is damaged.
    """
    reader = _READERS[_suffix(part.file)]
    for number, row in reader(part):
        yield part.before + number, row


def _suffix(file: str) -> str:
    suffix = PurePosixPath(file).suffix.lower()
    if suffix not in _READERS:
        raise ConfigError(f"{file}: rows are read from {', '.join(sorted(_READERS))}")
    return suffix


def _split_file(
    file: str, before: int, *, per_part: int, limit: int, has_head: bool
) -> Iterator[Part]:
    suffix = _suffix(file)
    wanted = max(0, limit - before) if limit else None
    if suffix == ".parquet":
        total = _parquet(file).metadata.num_rows
        starts = [(start, 0) for start in range(0, total, per_part)]
    elif suffix in _WHOLE:
        total = sum(1 for _ in _READERS[suffix](_everything(file, before)))
        starts = [(start, 0) for start in range(0, total, per_part)]
    else:
        head = 1 if suffix == ".tsv" and has_head else 0
        total, starts = _line_starts(file, per_part, head, wanted)
    for start, offset in starts:
        end = min(start + per_part, total if wanted is None else min(total, wanted))
        if end > start:
            yield Part(
                file=file, first=start, count=end - start, offset=offset, before=before,
                has_head=has_head,
            )  # fmt: skip


def _everything(file: str, before: int) -> Part:
    return Part(file=file, first=0, count=1 << 62, offset=0, before=before)


def _line_starts(
    file: str, per_part: int, head: int, wanted: int | None
) -> tuple[int, list[tuple[int, int]]]:
    """How many lines there are, and where every `per_part`-th begins."""
    starts, number, offset = [], -head, 0
    with fsspec.open(file, "rb") as lines:
        for line in lines:
            if wanted is not None and number >= wanted:
                break
            if number >= 0 and number % per_part == 0:
                starts.append((number, offset))
            number += 1
            offset += len(line)
    return max(0, number), starts


def _lines(part: Part) -> Iterator[tuple[int, bytes]]:
    with fsspec.open(part.file, "rb") as lines:
        lines.seek(part.offset)
        for number in range(part.first, part.first + part.count):
            line = lines.readline(_MAX_LINE)
            if not line:
                return
            yield number, line


def _jsonl(part: Part) -> Iterator[tuple[int, Row | DroppedError]]:
    for number, line in _lines(part):
        try:
            row = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            yield number, DroppedError("row is not JSON", str(error))
            continue
        yield number, _with_image(part.file, row)


def _json(part: Part) -> Iterator[tuple[int, Row | DroppedError]]:
    try:
        with fsspec.open(part.file, "rb") as file:
            rows = json.loads(file.read().decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{part.file} is not JSON: {error}", "damaged") from error
    if not isinstance(rows, list):
        raise DataError(f"{part.file} holds {type(rows).__name__}, expected a list", "damaged")
    for number, row in _slice(rows, part):
        yield number, _with_image(part.file, row)


def _tsv(part: Part) -> Iterator[tuple[int, Row | DroppedError]]:
    names: list[str] | None = None
    if part.has_head:
        with fsspec.open(part.file, "rb") as file:
            names = file.readline().decode("utf-8", "replace").rstrip("\r\n").split("\t")
    for number, line in _lines(part):
        try:
            cells = line.decode("utf-8").rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            yield number, DroppedError("row is not UTF-8", str(error))
            continue
        if names is not None and len(cells) != len(names):
            detail = f"{len(cells)} cells, {len(names)} columns"
            yield number, DroppedError("row has another number of cells than the head", detail)
            continue
        yield number, dict(zip(names or map(str, range(len(cells))), cells, strict=True))


def _csv(part: Part) -> Iterator[tuple[int, Row | DroppedError]]:
    with fsspec.open(part.file, "rt", encoding="utf-8", errors="strict", newline="") as file:
        reader = csv.DictReader(io.StringIO(file.read()), strict=False)
    for number, row in _slice(list(reader), part):
        if None in row or None in row.values():
            yield number, DroppedError("row has another number of cells than the head")
            continue
        yield number, _with_image(part.file, row)


def _parquet(file: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(fsspec.open(file, "rb").open())
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} is no parquet file: {error}", "damaged") from error


def _parquet_rows(part: Part) -> Iterator[tuple[int, Row | DroppedError]]:
    file = _parquet(part.file)
    start, end, at = part.first, part.first + part.count, 0
    for group in range(file.num_row_groups):
        size = file.metadata.row_group(group).num_rows
        if at + size > start and at < end:
            try:
                batches = file.iter_batches(batch_size=64, row_groups=[group])
                number = at
                for batch in batches:
                    for row in batch.to_pylist():
                        if start <= number < end:
                            yield number, row
                        number += 1
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{part.file}, row group {group}: {error}", "damaged") from error
        at += size


def _tar(part: Part) -> Iterator[tuple[int, Row | DroppedError]]:
    """WebDataset: members of one stem are one row; .json gives columns, .txt the column `txt`."""
    try:
        with fsspec.open(part.file, "rb") as file, tarfile.open(fileobj=file, mode="r|") as tar:
            yield from _slice(_tar_rows(tar), part)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{part.file} is no tar file, or cut off: {error}", "damaged") from error


def _tar_rows(tar: tarfile.TarFile) -> Iterator[Row | DroppedError]:
    stem, row = None, Row()
    for member in tar:
        if not member.isfile():
            continue
        name, _, extension = member.name.partition(".")
        if name != stem:
            if stem is not None:
                yield _whole(row)
            stem, row = name, Row(__key__=name)
        content = tar.extractfile(member)
        row[extension.lower()] = content.read() if content else b""
    if stem is not None:
        yield _whole(row)


def _whole(members: Row) -> Row | DroppedError:
    row = Row(__key__=members["__key__"])
    try:
        for extension, content in members.items():
            if extension in _IMAGES:
                row["image"] = content
            elif extension == "txt":
                row["txt"] = content.decode("utf-8")
            elif extension == "json":
                row |= json.loads(content.decode("utf-8"))
    except (ValueError, TypeError, RecursionError) as error:
        return DroppedError("row is not JSON", f"{members['__key__']}: {error}")
    return row


def _slice(rows: Any, part: Part) -> Iterator[tuple[int, Any]]:
    for number, row in enumerate(rows):
        if number >= part.first + part.count:
            return
        if number >= part.first:
            yield number, row


def _with_image(file: str, row: Any) -> Row | DroppedError:
    """A row whose `image` is a path becomes one with the image's bytes."""
    if not isinstance(row, dict):
        return DroppedError("row is no object", repr(row)[:80])
    image = row.get("image")
    if isinstance(image, str) and image and "://" not in image:
        try:
            row["image"] = safe_join(Path(file).parent, image).read_bytes()
        except (OSError, DataError, ValueError) as error:
            return DroppedError("no image file", str(error))
    return row


_Reader = Callable[[Part], Iterator[tuple[int, Row | DroppedError]]]
_READERS: dict[str, _Reader] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".tsv": _tsv,
    ".csv": _csv,
    ".parquet": _parquet_rows,
    ".tar": _tar,
}

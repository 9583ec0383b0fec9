"""Reading rows of published datasets in parts: parquet, JSON lines, JSON, TSV, CSV, WebDataset."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from huggingface_hub import HfApi

from core.errors import ConfigError, DataError
from core.io.files import safe_join
from core.io.hub import explain_hub_error
from core.process.log import get_logger
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.reading.json_rows import parse_line, parse_rows
from data_prep.prepare.reading.parquet_rows import count_parquet_rows, read_parquet_rows
from data_prep.prepare.reading.tables import (
    UTF_16_MARKS,
    is_quoted,
    parse_head,
    read_table,
    unquote,
)
from data_prep.prepare.reading.tar_rows import convert_samples
from datamodules.shards.tar_members import IMAGE_EXTENSIONS, HashingStream, group_members

DatasetRow = dict[str, Any]
_SEQUENTIAL = (".json", ".csv", ".tar")
"""Formats that are read from the start of the file for every part."""
_MAX_LINE_BYTES = 64 << 20
_ALL_ROWS = 1 << 40
_BLANK = b" \t\r\n\xef\xbb\xbf"
"""Bytes of a line without a row; the last three are a byte order mark."""
_HUB_PREFIX = "hf://datasets/"
_LOG = get_logger("prepare")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Consecutive rows of a file, the input of one task."""

    file: str
    first: int
    """Index of the first row in the file."""
    count: int
    offset: int
    """Byte offset of the first row in line-based files, otherwise 0."""
    before: int
    """Number of rows in the files before this one."""
    has_head: bool = True
    """True if the first line of a .tsv names the columns."""
    reads_images: bool = True
    """Replace an `image` column that is a path beside the file by the bytes of the image."""


def find_files(place: str) -> list[str]:
    """Return the files of a location, sorted.

    Raises:
        ConfigError: If there are none.
    """
    place = _pin_revision(place) if place.startswith(_HUB_PREFIX) else place
    try:
        filesystem, path = fsspec.core.url_to_fs(place)
        # A file whose name has such characters is not a pattern.
        is_pattern = any(c in path for c in "*?[") and not filesystem.isfile(path)
        found = sorted(filesystem.glob(path)) if is_pattern else [path]
        found = [name for name in found if filesystem.isfile(name)]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot list '{place}': {error}; correct the `place` of the source"
        ) from error
    if not found:
        raise ConfigError(f"no file '{place}'; correct the `place` of the source")
    protocol = place.partition("://")[0] + "://" if "://" in place else ""
    return [name if "://" in name else f"{protocol}{name}" for name in found]


def _pin_revision(place: str) -> str:
    """Replace the revision of a hub location by its current commit, so that it cannot change."""
    owner, name, *rest = place.removeprefix(_HUB_PREFIX).split("/")
    name, _, revision = name.partition("@")
    repository = f"{owner}/{name}"
    try:
        commit = HfApi().dataset_info(repository, revision=revision or None).sha
    # The error types of the HTTP library differ between versions, so all are caught.
    except Exception as error:
        why = explain_hub_error(error, repository, revision, kind="dataset")
        raise ConfigError(f"{place}: {why}; or use a mirror: --set SOURCE.place=...") from error
    return f"{_HUB_PREFIX}{repository}@{commit}/{'/'.join(rest)}"


def split(place: str, *, per_part: int, limit: int = 0, has_head: bool = True) -> list[Part]:
    """Split the files of a location into parts.

    Args:
        place: File, glob or URL.
        per_part: Number of rows per part.
        limit: Maximum number of rows in all parts; 0 means all.
        has_head: Whether the first line of a .tsv names the columns.

    Raises:
        ConfigError: If there is no such file, or its format is not supported.
        DataError: If a file is damaged.
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


def read(part: Part) -> Iterator[tuple[int, DatasetRow | DroppedError]]:
    """Yield (row number over all files, row or reason why it is unreadable), images as bytes.

    Raises:
        DataError: If the file as a whole is damaged.
    """
    reader = _READERS[_suffix(part.file)]
    for number, row in reader(part):
        yield part.before + number, row


def read_whole(place: str) -> Iterator[DatasetRow]:
    """Yield the rows of a location, all of which must be readable.

    Raises:
        ConfigError: If there is no such file, or its format is not supported.
        DataError: If a file or a row is damaged.
    """
    for part in split(place, per_part=_ALL_ROWS):
        for number, row in read(part):
            if isinstance(row, DroppedError):
                raise DataError(f"{part.file}, row {number}: {row}", row.reason)
            yield row


def _suffix(file: str) -> str:
    suffix = PurePosixPath(file).suffix.lower()
    if suffix not in _READERS:
        raise ConfigError(
            f"{file} has an unsupported format; expected {', '.join(sorted(_READERS))}"
        )
    return suffix


def _split_file(
    file: str, before: int, *, per_part: int, limit: int, has_head: bool
) -> Iterator[Part]:
    suffix = _suffix(file)
    wanted = max(0, limit - before) if limit else None
    if suffix == ".parquet":
        total = count_parquet_rows(file)
        starts = [(start, 0) for start in range(0, total, per_part)]
    elif suffix in _SEQUENTIAL:
        total = sum(1 for _ in _READERS[suffix](_whole_file(file, before)))
        starts = [(start, 0) for start in range(0, total, per_part)]
    else:
        head = 1 if suffix == ".tsv" and has_head else 0
        total, starts = _line_starts(file, per_part, head, wanted)
    for start, offset in starts:
        end = min(start + per_part, total if wanted is None else min(total, wanted))
        if end > start:
            yield Part(
                file=file,
                first=start,
                count=end - start,
                offset=offset,
                before=before,
                has_head=has_head,
            )


def _whole_file(file: str, before: int) -> Part:
    return Part(file=file, first=0, count=1 << 62, offset=0, before=before)


def _line_starts(
    file: str, per_part: int, head: int, wanted: int | None
) -> tuple[int, list[tuple[int, int]]]:
    """Return the number of lines, and (index, byte offset) of every `per_part`-th line."""
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


def _read_lines(part: Part) -> Iterator[tuple[int, bytes | DroppedError]]:
    """Yield the lines that are not blank; those beyond the limit are skipped to their end."""
    with fsspec.open(part.file, "rb") as lines:
        lines.seek(part.offset)
        for number in range(part.first, part.first + part.count):
            line = lines.readline(_MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > _MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = lines.readline(_MAX_LINE_BYTES)
                yield (
                    number,
                    DroppedError("the line is too long", f"over {_MAX_LINE_BYTES:,} bytes"),
                )
            elif line.strip(_BLANK):
                yield number, line


def _read_jsonl(part: Part) -> Iterator[tuple[int, DatasetRow | DroppedError]]:
    for number, line in _read_lines(part):
        if isinstance(line, DroppedError):
            yield number, line
            continue
        try:
            row = parse_line(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            row = DroppedError("row is not UTF-8", str(error))
        yield number, row if isinstance(row, DroppedError) else _with_image(part, row)


def _read_json(part: Part) -> Iterator[tuple[int, DatasetRow | DroppedError]]:
    with fsspec.open(part.file, "rb") as file:
        content = file.read()
    for number, row in _slice_part(parse_rows(content, part.file), part):
        yield number, row if isinstance(row, DroppedError) else _with_image(part, row)


def _read_tsv(part: Part) -> Iterator[tuple[int, DatasetRow | DroppedError]]:
    names, has_quotes = None, False
    if part.has_head:
        with fsspec.open(part.file, "rb") as file:
            first = file.readline()
        if first.startswith(UTF_16_MARKS):
            raise DataError(f"{part.file} is UTF-16; save it as UTF-8, or as .csv", "not UTF-8")
        head = first.decode("utf-8-sig", "replace").rstrip("\r\n")
        has_quotes = all(map(is_quoted, head.split("\t")))
        names = parse_head(
            [unquote(cell, always=has_quotes) for cell in head.split("\t")], part.file
        )
    for number, line in _read_lines(part):
        if isinstance(line, DroppedError):
            yield number, line
            continue
        try:
            cells = line.decode("utf-8").rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            yield number, DroppedError("row is not UTF-8", str(error))
            continue
        if names is not None and len(cells) != len(names):
            detail = f"{len(cells)} cells, {len(names)} columns"
            yield number, DroppedError("row has more or fewer cells than the header", detail)
            continue
        texts = [unquote(cell, always=has_quotes) for cell in cells]
        row = dict(zip(names or map(str, range(len(cells))), texts, strict=True))
        yield number, _with_image(part, row)


def _read_csv(part: Part) -> Iterator[tuple[int, DatasetRow | DroppedError]]:
    with fsspec.open(part.file, "rb") as file:
        rows = read_table(file.read(), part.file)
    for number, row in _slice_part(rows, part):
        if None in row or None in row.values():
            yield number, DroppedError("row has more or fewer cells than the header")
            continue
        yield number, _with_image(part, row)


def _read_parquet(part: Part) -> Iterator[tuple[int, DatasetRow | DroppedError]]:
    yield from read_parquet_rows(part.file, part.first, part.first + part.count)


def _read_tar(part: Part) -> Iterator[tuple[int, DatasetRow | DroppedError]]:
    """Read a WebDataset shard: per key, the columns of its .json, `txt` and `image`."""
    ignored = Counter[str]()
    wanted = {"json", "txt", *IMAGE_EXTENSIONS}
    with fsspec.open(part.file, "rb") as file:
        samples = group_members(HashingStream(file), part.file, wanted, ignored)
        yield from _slice_part(convert_samples(samples), part)
    if ignored:
        members = ", ".join(f"{count:,} x {kind}" for kind, count in ignored.most_common())
        _LOG.info("%s: ignored members: %s", part.file, members)


def _slice_part(rows: Any, part: Part) -> Iterator[tuple[int, Any]]:
    for number, row in enumerate(rows):
        if number >= part.first + part.count:
            return
        if number >= part.first:
            yield number, row


def _with_image(part: Part, row: Any) -> DatasetRow | DroppedError:
    """Replace an `image` column that is a path by the bytes of the image."""
    if isinstance(row, list):
        return DroppedError("row is a list; a file that is one list is named .json", repr(row)[:80])
    if not isinstance(row, dict):
        return DroppedError("row is not an object", repr(row)[:80])
    if not part.reads_images:
        return row
    image = row.get("image")
    if isinstance(image, str) and image and "://" not in image:
        try:
            path = safe_join(Path(part.file).parent, image)
            if path.exists() and not path.is_file():  # reading a pipe would never return
                return DroppedError("no image file", f"{image[:80]!r} is not a file")
            row["image"] = path.read_bytes()
        except (OSError, DataError, ValueError) as error:
            # The column may hold the image itself in base64, of any length.
            return DroppedError("no image file", f"{image[:80]!r}: {str(error)[:80]}")
    return row


_RowReader = Callable[[Part], Iterator[tuple[int, DatasetRow | DroppedError]]]
_READERS: dict[str, _RowReader] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".tsv": _read_tsv,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".tar": _read_tar,
}

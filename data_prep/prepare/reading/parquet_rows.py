"""Rows of Parquet files; a value that Python can't represent drops its row."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import DataError
from data_prep.prepare.faults import DroppedError

_Rows = list[dict[str, Any] | DroppedError]
_ROWS_PER_BATCH = 64


def count_parquet_rows(file: str) -> int:
    """Return the number of rows of a file.

    Raises:
        DataError: If it is not a Parquet file, or two of its columns have one name.
    """
    with _open_parquet(file) as opened:
        return int(opened.metadata.num_rows)


def read_parquet_rows(
    file: str, start: int, end: int
) -> Iterator[tuple[int, dict[str, Any] | DroppedError]]:
    """Yield (row number, row or reason why it is unreadable) of the rows from `start` to `end`.

    Raises:
        DataError: If the file, or a row group of these rows, is damaged.
    """
    at = 0
    with _open_parquet(file) as opened:
        for group in range(opened.num_row_groups):
            size = opened.metadata.row_group(group).num_rows
            if at + size > start and at < end:
                for number, row in _group_rows(opened, file, group, at):
                    if start <= number < end:
                        yield number, row
            at += size


@contextlib.contextmanager
def _open_parquet(file: str) -> Iterator[pq.ParquetFile]:
    with contextlib.ExitStack() as stack:
        try:
            stream = stack.enter_context(fsspec.open(file, "rb"))
            opened = stack.enter_context(pq.ParquetFile(stream, pre_buffer=False))
            names = opened.schema_arrow.names
        except (OSError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{file} is not a parquet file: {error}; download it again", "damaged"
            ) from error
        # A row is a dict, in which the last column of a name would replace the others.
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise DataError(
                f"{file} has two columns '{repeated[0]}'; rename or remove one of them", "damaged"
            )
        yield opened


def _group_rows(
    opened: pq.ParquetFile, file: str, group: int, number: int
) -> Iterator[tuple[int, dict[str, Any] | DroppedError]]:
    # A thread of pyarrow that still holds the Python file when the interpreter exits aborts it.
    batches = opened.iter_batches(batch_size=_ROWS_PER_BATCH, row_groups=[group], use_threads=False)
    try:
        for batch in batches:
            for row in _rows_of(batch):
                yield number, row
                number += 1
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{file}, row group {group} is damaged: {error}; download it again", "damaged"
        ) from error


def _rows_of(batch: pa.RecordBatch) -> _Rows:
    """Return the rows of a batch.

    Arrow does not check what it reads: texts that are not UTF-8, dates after the year 9999, unknown
    time zones, and objects with two fields of one name fail here, with exceptions of any class.
    """
    try:
        rows: _Rows = batch.to_pylist()
    except Exception:  # noqa: BLE001
        if batch.num_rows == 1:
            return [_fault_of(batch)]
        return [row for at in range(batch.num_rows) for row in _rows_of(batch.slice(at, 1))]
    return rows


def _fault_of(batch: pa.RecordBatch) -> DroppedError:
    """Return why a row can't be converted, with the column."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.to_pylist()
        except Exception as error:  # noqa: BLE001
            is_text = isinstance(error, UnicodeDecodeError)
            reason = "row is not UTF-8" if is_text else "a value can't be read"
            return DroppedError(reason, f"column '{name}': {type(error).__name__}: {error}")
    return DroppedError("row can't be read")

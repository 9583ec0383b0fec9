"""The per-item record of an evaluation, kept as parquet so that nothing has to be believed."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import DataError
from core.io.files import atomic_write_bytes

FILE_NAME = "predictions.parquet"

SCHEMA = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("question_type", pa.string(), nullable=False),
        pa.field("answer_type", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("image_key", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("answers", pa.list_(pa.string()), nullable=False),
        pa.field("choices", pa.list_(pa.string()), nullable=False),
        pa.field("expected", pa.string()),
        pa.field("output", pa.string(), nullable=False),
        pa.field("parsed", pa.string()),
        pa.field("score", pa.float64(), nullable=False),
        pa.field("score_aware", pa.float64()),
        pa.field("language_identified", pa.string(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("is_truncated", pa.bool_(), nullable=False),
        pa.field("blind_output", pa.string()),
        pa.field("blind_score", pa.float64()),
        pa.field("blind_score_aware", pa.float64()),
        pa.field("majority_score", pa.float64(), nullable=False),
        pa.field("majority_score_aware", pa.float64()),
        pa.field("chance_score", pa.float64()),
    ]
)
"""One row per (question, language). Scores are 0..1.

`output` is the raw reply, `parsed` what was compared, `expected` the right choice (mc) or
"yes"/"no" (capqa); `majority_score` and `chance_score` are what the baselines get on the item.
"""


def write_predictions(path: Path, table: pa.Table) -> None:
    """Write a table of `SCHEMA`, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    atomic_write_bytes(path, buffer.getvalue())


def read_predictions(path: Path) -> pa.Table:
    """Read what `write_predictions` wrote.

    Raises:
        DataError: no such file, or one with other columns.
    """
    if not path.is_file():
        raise DataError(f"predictions {path} do not exist; run the evaluate stage of this cell")
    table = pq.read_table(path)
    if not table.schema.equals(SCHEMA):
        raise DataError(f"predictions {path} have other columns; run the evaluate stage again")
    return table


def paired_scores(
    first: pa.Table, second: pa.Table, *, benchmark: str, language: str, column: str = "score"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two cells on the same items, and the items' images, for paired statistics.

    Returns:
        The first's scores, the second's, and the image key of each, ordered by question id.

    Raises:
        DataError: the two did not answer the same questions, or none.
    """
    rows = [_select(table, benchmark, language, column) for table in (first, second)]
    if rows[0]["question_id"] != rows[1]["question_id"] or not rows[0]["question_id"]:
        count, other = (len(row["question_id"]) for row in rows)
        raise DataError(
            f"{benchmark}/{language}: the cells answered {count} and {other} items that are not "
            "the same (or none); compare cells of one benchmark"
        )
    scores = [np.asarray(row[column], dtype=np.float64) for row in rows]
    return scores[0], scores[1], np.asarray(rows[0]["image_key"])


def _select(table: pa.Table, benchmark: str, language: str, column: str) -> dict[str, list[Any]]:
    keep = pc.and_(
        pc.equal(table["benchmark"], benchmark),
        pc.equal(table["language"], language),
    )
    columns = ["question_id", "image_key", column]
    rows: dict[str, list[Any]] = (
        table.filter(keep).select(columns).sort_by("question_id").to_pydict()
    )
    return rows

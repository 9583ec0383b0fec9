"""Per-item predictions of an evaluation in a Parquet file, from which all metrics derive."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import DataError
from core.io.files import atomic_write_bytes
from core.io.reading import reading

PREDICTIONS_FILE = "predictions.parquet"

SCHEMA = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
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
        pa.field("score_lmms", pa.float64()),
        pa.field("score_aware", pa.float64()),
        pa.field("score_any_language", pa.float64(), nullable=False),
        pa.field("language_identified", pa.string(), nullable=False),
        pa.field("is_in_language", pa.bool_()),
        pa.field("is_refusal", pa.bool_(), nullable=False),
        pa.field("num_tokens", pa.int32(), nullable=False),
        pa.field("is_truncated", pa.bool_(), nullable=False),
        pa.field("likeliest_output", pa.string()),
        pa.field("likeliest_score", pa.float64()),
        pa.field("blind_output", pa.string()),
        pa.field("blind_parsed", pa.string()),
        pa.field("blind_score", pa.float64()),
        pa.field("blind_score_lmms", pa.float64()),
        pa.field("blind_score_aware", pa.float64()),
        pa.field("blind_likeliest_output", pa.string()),
        pa.field("blind_likeliest_score", pa.float64()),
        pa.field("majority_score", pa.float64(), nullable=False),
        pa.field("majority_score_lmms", pa.float64()),
        pa.field("majority_score_aware", pa.float64()),
        pa.field("chance_score", pa.float64()),
    ]
)
"""Columns of the predictions, with one row per question and language. Scores are in 0..1.

`dataset` is the name of the benchmark and `benchmark` its kind. `output` is the raw reply and
`parsed` the part of it that was compared. `expected` is the correct choice (mc) or "yes"/"no"
(capqa). `score_any_language` is the best score of the reply against the same question in any
language of the run; for vqa it is the one of lmms-eval. `is_in_language` is null for replies that
had to be one of the options, and so could not be in another language. `likeliest_*` concern the
option of a closed question that the model finds most likely, if it was asked for likelihoods.
`blind_*` concern the reply to a blank image, so `score` minus `blind_score` is what the image
contributes, and `blind_likeliest_*` the likeliest option with a blank image.
`majority_score` and `chance_score` are the scores of the baselines on the item.
"""


def write_predictions(path: Path, table: pa.Table) -> None:
    """Write a table of predictions atomically."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    atomic_write_bytes(path, buffer.getvalue())


def read_predictions(path: Path) -> pa.Table:
    """Read a file of `write_predictions`.

    Raises:
        DataError: If the file does not exist or has other columns.
    """
    if not path.is_file():
        raise DataError(f"predictions {path} do not exist; run the evaluate stage of this cell")
    with reading(path, fix="delete the result folder to run the evaluate stage again"):
        table = pq.read_table(path)
    if not table.schema.equals(SCHEMA):
        raise DataError(f"predictions {path} have other columns; run the evaluate stage again")
    return table

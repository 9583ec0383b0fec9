"""Parquet files of task packs, as both harnesses load them through Hugging Face datasets."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.io.files import atomic_path
from evaluation.benchmarks.items import BenchmarkItem
from evaluation.benchmarks.prompting import PromptBook

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_ANSWER = pa.struct(
    [("answer", pa.string()), ("answer_id", pa.int64()), ("answer_confidence", pa.string())]
)
_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("image_key", pa.string()),
        ("question_type", pa.string()),
        ("answer_type", pa.string()),
        ("image", _IMAGE),
        ("question", pa.string()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("answers", pa.list_(_ANSWER)),
        ("references", pa.list_(pa.string())),
    ]
)
_TEXT = {"dtype": "string", "_type": "Value"}
_FEATURES: dict[str, Any] = {
    "question_id": _TEXT,
    "image_key": _TEXT,
    "question_type": _TEXT,
    "answer_type": _TEXT,
    "image": {"_type": "Image"},
    "question": _TEXT,
    "prompt": _TEXT,
    "target": _TEXT,
    "answers": {
        "feature": {
            "answer": _TEXT,
            "answer_id": {"dtype": "int64", "_type": "Value"},
            "answer_confidence": _TEXT,
        },
        "_type": "List",
    },
    "references": {"feature": _TEXT, "_type": "List"},
}
"""Description of the columns that `datasets` reads from the file; it makes images of the bytes."""


def write_questions(path: Path, items: Sequence[BenchmarkItem], prompts: PromptBook) -> None:
    """Write the questions of one kind and language, with their prompts and targets.

    Args:
        path: File to write.
        items: The questions, with images.
        prompts: Templates of the prompts.
    """
    rows = [_row(item, prompts) for item in items]
    metadata = {"huggingface": json.dumps({"info": {"features": _FEATURES}})}
    table = pa.Table.from_pylist(rows, schema=_SCHEMA.with_metadata(metadata))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)


def _row(item: BenchmarkItem, prompts: PromptBook) -> dict[str, Any]:
    letters = prompts.letters(item)
    target = Counter(item.answers).most_common(1)[0][0] if item.answers else ""
    if item.correct_choice is not None:
        target = letters[item.correct_choice] if letters else item.choices[item.correct_choice]
    return {
        "question_id": item.question_id,
        "image_key": item.image_key,
        "question_type": item.question_type,
        "answer_type": item.answer_type,
        "image": {"bytes": item.image, "path": None},
        "question": item.question,
        "prompt": prompts.question_text(item),
        "target": target,
        "answers": [
            {"answer": answer, "answer_id": number, "answer_confidence": "yes"}
            for number, answer in enumerate(item.answers, 1)
        ],
        "references": list(item.answers),
    }

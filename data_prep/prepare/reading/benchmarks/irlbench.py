"""IRLBench (ReliableAI/IRLBench): questions of the Irish Leaving Certificate, in Irish and English.

The location is the files of a version: `FOLDER/data/*IV_problems-*.parquet` in Irish,
`FOLDER/data/*EV_problems-*.parquet` in English. The rows have no ids, papers have different numbers
of rows in the two versions, and figures have labels in their language; therefore the questions of
the two versions are not joined, and each language is imported by itself.

Only questions with exactly one image can be asked; others are counted.
"""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from core.errors import DataError
from data_prep.prepare.reading.rows import find_files, read_whole

_COLUMNS = ("problem", "answer", "problem_image_1", "problem_image_2")


def read(place: str) -> Iterator[dict[str, Any]]:
    """Yield a row per question; its id is the name of its file and its number in it.

    Raises:
        DataError: If a file has other columns.
    """
    for file in find_files(place):
        paper = PurePosixPath(file).stem
        for number, row in enumerate(read_whole(file)):
            if missing := [name for name in _COLUMNS if name not in row]:
                raise DataError(f"{file}, row {number} has no column '{missing[0]}'")
            images = [row[name] for name in _COLUMNS[2:] if row[name]]
            yield {
                "question_id": f"{paper}/{number}",
                "not_about_one_image": len(images) != 1,
                "image": images[0] if len(images) == 1 else None,
                "question": row["problem"],
                "answers": [row["answer"]],
                "paper": paper.partition("_")[0],
            }

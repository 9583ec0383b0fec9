"""Images with questions and what the cells replied, drawn at random: numbers hide what they mean.

Which images are shown depends on their names and a fixed seed alone, never on the replies.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from core.errors import DataError
from core.process.log import get_logger
from core.rng import named_rng
from datamodules.shards.manifest import SUFFIX, load_manifest, open_shard
from evaluation.benchmarks.predictions import read_predictions
from reporting.records import CellRecord, GridRecord
from reporting.series import (
    ENOUGH_SHARE,
    MAIN,
    View,
    best_point,
    lines,
    percent,
    setting_of,
    share_of,
)

NUM_IMAGES = 24
_MAX_CELLS = 3
_ALMOST = 0.999
_MAX_SIDE = 384
_MAX_INLINE_BYTES = 40_000
_COLUMNS = ("question_id", "benchmark", "answer_type", "language", "image_key", "question",
            "answers", "choices", "expected", "output", "score")  # fmt: skip
_KINDS = (("vqa", "other"), ("vqa", "number"), ("vqa", "other"), ("vqa", "yes/no"),
          ("mc", "choice"), ("capqa", "yes/no"))  # fmt: skip
_log = get_logger("report")

Rows = dict[tuple[str, str], dict[str, Any]]
"""(question id, language) -> row of the predictions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What one cell replied."""

    cell: str
    text: str
    mark: str
    """right, partly or wrong."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """A question in one language with its accepted answers and the replies."""

    language: str
    question: str
    accepted: str
    replies: tuple[Reply, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exhibit:
    """One image of the gallery."""

    image: str
    """A data URI."""
    kind: str
    exchanges: tuple[Exchange, ...]


def build_gallery(grid: GridRecord, view: View) -> list[Exhibit]:
    """The exhibits; none (and a warning) where the benchmark's images aren't at hand."""
    cells = chosen_cells(grid, view)
    if not cells:
        return []
    tables = [(label, _read(cell)) for label, cell in cells]
    chosen = _choose(tables[0][1], view)
    try:
        images = read_images(Path(grid.benchmark + SUFFIX), [key for key, _ in chosen])
    except DataError as error:
        _log.warning("the report has no images: %s", error)
        return []
    exhibits = []
    for key, question_id in chosen:
        if key not in images:
            continue
        first = tables[0][1][question_id, view.target]
        exchanges = tuple(_exchange(tables, question_id, language) for language in view.languages)
        kind = f"{first['benchmark']}, {first['answer_type']}"
        exhibits.append(Exhibit(image=images[key], kind=kind, exchanges=exchanges))
    return exhibits


def chosen_cells(grid: GridRecord, view: View) -> list[tuple[str, CellRecord]]:
    """At most three telling cells with their labels: on a curve its ends and 20 %."""
    done = [c for c in grid.cells if c.evaluation and c.evaluation.predictions.is_file()]
    done = [cell for cell in done if cell.axes.get("seed") == done[0].axes.get("seed")]
    best = best_point(lines(grid, view, MAIN), view.target)
    mine = {share_of(cell): cell for cell in done if best and setting_of(cell) == best[0]}
    if view.is_curve and mine:
        shares = sorted(mine)
        wanted = dict.fromkeys([shares[0], *(s for s in (ENOUGH_SHARE,) if s in mine), shares[-1]])
        return [(percent(share), mine[share]) for share in wanted]
    many = len(view.shares) > 1
    labels = [view.label(setting_of(c)) for c in done]
    if many:
        shares_text = [percent(share_of(cell)) for cell in done]
        labels = [f"{label}, {share}" for label, share in zip(labels, shares_text, strict=True)]
    return list(zip(labels, done, strict=True))[:_MAX_CELLS]


def read_images(manifest_path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Images of a benchmark as data URIs.

    Raises:
        DataError: the manifest or a shard is missing or damaged.
    """
    wanted, found = set(keys), {}
    for entry in load_manifest(manifest_path).shards:
        reader = open_shard(manifest_path, entry)
        for row in range(len(reader)):
            if (key := reader.key(row)) in wanted:
                found[key] = _data_uri(reader.read(row)[1])
        reader.close()
    return {key: uri for key, uri in found.items() if uri}


def _data_uri(content: bytes | None) -> str:
    if content is None:
        return ""
    image = Image.open(io.BytesIO(content))
    kind = (image.format or "png").lower()
    if len(content) > _MAX_INLINE_BYTES or max(image.size) > _MAX_SIDE:
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", quality=80)
        content, kind = buffer.getvalue(), "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _read(cell: CellRecord) -> Rows:
    table = read_predictions(cell.stages["evaluate"].predictions).select(_COLUMNS)
    return {(row["question_id"], row["language"]): row for row in table.to_pylist()}


def _choose(rows: Rows, view: View) -> list[tuple[str, str]]:
    """Images in a seeded order, one question each, the kinds of question in turn."""
    by_image: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for (question_id, language), row in sorted(rows.items()):
        if language == view.target and (question_id, view.base) in rows:
            kind = (row["benchmark"], row["answer_type"])
            by_image[row["image_key"]][kind].append(question_id)
    keys = sorted(by_image)
    order = [keys[at] for at in named_rng(0, "gallery").permutation(len(keys))]
    chosen: list[tuple[str, str]] = []
    for at in range(min(NUM_IMAGES, len(keys))):
        kind = _KINDS[at % len(_KINDS)]
        key = next((k for k in order if kind in by_image[k]), order[0])
        order.remove(key)
        questions = by_image[key].get(kind) or next(iter(by_image[key].values()))
        chosen.append((key, questions[0]))
    return chosen


def _exchange(tables: Sequence[tuple[str, Rows]], question_id: str, language: str) -> Exchange:
    row = tables[0][1][question_id, language]
    replies = [(label, rows[question_id, language]) for label, rows in tables
               if (question_id, language) in rows]  # fmt: skip
    return Exchange(
        language=language,
        question=row["question"],
        accepted=_accepted(row),
        replies=tuple(
            Reply(
                cell=label, text=reply["output"].strip() or "(nothing)", mark=_mark(reply["score"])
            )
            for label, reply in replies
        ),
    )


def _accepted(row: Mapping[str, Any]) -> str:
    """What counts as right, most frequent first; the offered choices where there are some."""
    if row["choices"]:
        others = [choice for choice in row["choices"] if choice != row["expected"]]
        return f"{row['expected']} (not {', '.join(others)})" if row["expected"] else ""
    answers = row["answers"]
    return ", ".join(sorted(dict.fromkeys(answers), key=lambda a: -answers.count(a))[:4])


def _mark(score: float) -> str:
    if score <= 0:
        return "wrong"
    return "right" if score > _ALMOST else "partly"

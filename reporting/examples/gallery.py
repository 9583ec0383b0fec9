"""Gallery of random benchmark images with their questions and the replies of several cells.

The selection depends on image names and a fixed seed only, never on the replies.
"""

import base64
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.images import decode_image, image_size, portable_image
from core.process.log import get_logger
from core.rng import named_rng
from datamodules.shards.manifest import SUFFIX, load_manifest, open_shard
from evaluation.benchmarks.predictions import read_predictions
from reporting.records import CellRecord, GridRecord
from reporting.series import REFERENCE_SHARE, View, best_point, lines, main_panel
from reporting.settings import SEED, format_percent, setting_of, share_of

NUM_IMAGES = 24
_MAX_CELLS = 3
_FULL_SCORE = 0.999
_MAX_SIDE = 384
_MAX_INLINE_BYTES = 40_000
_COLUMNS = ("question_id", "dataset", "benchmark", "answer_type", "language", "image_key",
            "question", "answers", "choices", "expected", "output", "parsed", "score",
            "score_any_language", "is_refusal", "is_truncated")  # fmt: skip
_KINDS = (("vqa", "other"), ("vqa", "number"), ("vqa", "other"), ("vqa", "yes/no"),
          ("mc", "choice"), ("capqa", "yes/no"))  # fmt: skip
_LOG = get_logger("report")

PredictionRows = dict[tuple[str, str], dict[str, Any]]
"""(question id, language) -> row of the predictions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryReply:
    """Reply of one cell to a question."""

    cell: str
    text: str
    mark: str
    """`right`, `partly` or `wrong`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryQuestion:
    """A question in one language with its accepted answers and the replies."""

    language: str
    question: str
    accepted: str
    replies: tuple[GalleryReply, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GalleryItem:
    """One image of the gallery with a question in both languages."""

    image: str
    """Data URI of the image."""
    kind: str
    questions: tuple[GalleryQuestion, ...]


def build_gallery(grid: GridRecord, view: View) -> list[GalleryItem]:
    """Return the items of the gallery; none, with a warning, if the images are not available."""
    cells = select_cells(grid, view)
    if not cells:
        return []
    tables = [(label, read_rows(cell)) for label, cell in cells]
    chosen = select_questions(tables[0][1], view)
    try:
        images = read_images(Path(grid.benchmarks[0] + SUFFIX), [key for key, _ in chosen])
    except DataError as error:
        _LOG.warning("the report has no gallery, because its images can't be read: %s", error)
        return []
    items = []
    for key, question_id in chosen:
        if key not in images:
            continue
        first = tables[0][1][question_id, view.target]
        questions = tuple(_collect_replies(tables, question_id, lang) for lang in view.languages)
        kind = f"{first['benchmark']}, {first['answer_type']}"
        items.append(GalleryItem(image=images[key], kind=kind, questions=questions))
    return items


def select_cells(grid: GridRecord, view: View) -> list[tuple[str, CellRecord]]:
    """Select at most three finished cells, with their labels.

    On a curve these are the ends and the reference share of the best setting, otherwise the first
    cells of the grid; all with the same seed.
    """
    done = [c for c in grid.cells if c.evaluation and c.evaluation.predictions.is_file()]
    done = [cell for cell in done if cell.axes.get(SEED) == done[0].axes.get(SEED)]
    best = best_point(lines(grid, view, main_panel(grid)), view.target)
    of_best = {share_of(cell): cell for cell in done if best and setting_of(cell) == best[0]}
    if view.is_curve and of_best:
        shares = sorted(of_best)
        middle = [share for share in (REFERENCE_SHARE,) if share in of_best]
        selected = dict.fromkeys([shares[0], *middle, shares[-1]])
        return [(format_percent(share), of_best[share]) for share in selected]
    labels = []
    for cell in done:
        parts = [view.label(setting_of(cell))]
        parts += [format_percent(share_of(cell))] if len(view.shares) > 1 else []
        labels.append(", ".join(filter(None, parts)) or cell.cell_id)
    return list(zip(labels, done, strict=True))[:_MAX_CELLS]


def read_images(manifest_path: Path, keys: Sequence[str]) -> dict[str, str]:
    """Read images of a benchmark as data URIs.

    Raises:
        DataError: If the manifest or a shard is missing or damaged.
    """
    wanted, found = set(keys), {}
    for entry in load_manifest(manifest_path).shards:
        reader = open_shard(manifest_path, entry)
        for row in range(len(reader)):
            if (key := reader.key(row)) in wanted:
                found[key] = _to_data_uri(reader.read(row)[1])
        reader.close()
    return {key: uri for key, uri in found.items() if uri}


def read_rows(cell: CellRecord) -> PredictionRows:
    """Read the predictions of a cell by question and language."""
    table = read_predictions(cell.stages["evaluate"].predictions).select(_COLUMNS)
    return {(row["question_id"], row["language"]): row for row in table.to_pylist()}


def select_questions(rows: PredictionRows, view: View) -> list[tuple[str, str]]:
    """Select images in seeded order with one question each, cycling through question kinds."""
    by_image: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for (question_id, language), row in sorted(rows.items()):
        if language == view.target and (question_id, view.base) in rows:
            kind = (row["benchmark"], row["answer_type"])
            by_image[row["image_key"]][kind].append(question_id)
    keys = sorted(by_image)
    order = [keys[index] for index in named_rng(0, "gallery").permutation(len(keys))]
    chosen: list[tuple[str, str]] = []
    for number in range(min(NUM_IMAGES, len(keys))):
        kind = _KINDS[number % len(_KINDS)]
        key = next((k for k in order if kind in by_image[k]), order[0])
        order.remove(key)
        questions = by_image[key].get(kind) or next(iter(by_image[key].values()))
        chosen.append((key, questions[0]))
    return chosen


def _to_data_uri(content: bytes | None) -> str:
    if content is None:
        return ""
    content, media_type = portable_image(content)
    if len(content) > _MAX_INLINE_BYTES or max(image_size(content)) > _MAX_SIDE:
        image = decode_image(content)
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", quality=80)
        content, media_type = buffer.getvalue(), "image/webp"
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def _collect_replies(
    tables: Sequence[tuple[str, PredictionRows]], question_id: str, language: str
) -> GalleryQuestion:
    row = tables[0][1][question_id, language]
    replies = [(label, rows[question_id, language]) for label, rows in tables
               if (question_id, language) in rows]  # fmt: skip
    return GalleryQuestion(
        language=language,
        question=row["question"],
        accepted=format_accepted(row),
        replies=tuple(
            GalleryReply(
                cell=label,
                text=reply["output"].strip() or "(empty)",
                mark=grade(reply["score"]),
            )
            for label, reply in replies
        ),
    )


def format_accepted(row: Mapping[str, Any], *, limit: int = 4) -> str:
    """List the accepted answers, most frequent first, or the expected and the other choices.

    Args:
        row: Row of the predictions.
        limit: Number of answers; with 1, other choices are not named.
    """
    if row["choices"]:
        if limit == 1:
            return row["expected"] or ""
        others = [choice for choice in row["choices"] if choice != row["expected"]]
        return f"{row['expected']} (not {', '.join(others)})" if row["expected"] else ""
    answers = row["answers"]
    return ", ".join(sorted(dict.fromkeys(answers), key=lambda a: -answers.count(a))[:limit])


def grade(score: float) -> str:
    """Return `right`, `partly` or `wrong`."""
    if score <= 0:
        return "wrong"
    return "right" if score > _FULL_SCORE else "partly"

"""First step, one task per part: convert rows to items on disk and fetch their images."""

import dataclasses
import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.files import atomic_write_bytes, atomic_write_text, sha256_bytes
from core.io.images import decode_image
from core.io.jsonl import JsonlWriter, recover_jsonl
from core.io.reading import reading
from data_prep.prepare.faults import DroppedError, Ledger, read_ledger
from data_prep.prepare.fetch import Fetched, Outcome, Wanted, fetch_all
from data_prep.prepare.items import Item, Record, leave_out, make_item
from data_prep.prepare.reading import rows
from data_prep.prepare.reading.rows import Part
from data_prep.prepare.recipe import Kind, SourceRecipe
from data_prep.prepare.same_image import ImageDigest
from data_prep.prepare.work import COLLECTED, IMAGES, ITEMS, JOINED, SourcePlan, WorkPlan

AMBIGUOUS_KEY = "key occurs twice"
_FETCHES = "fetched.jsonl"
_JOIN_TABLE = (
    "CREATE TABLE texts (key TEXT PRIMARY KEY, record TEXT NOT NULL, sha256 BLOB, thumbnail BLOB)"
)
"""Record of each row of a published translation, and its image if rows are matched by number."""


@dataclasses.dataclass(kw_only=True)
class Collected:
    """An item on disk between the steps."""

    key: str
    records: dict[str, Record]
    image: str = ""
    """sha256 of the image's bytes; "" if there is no image."""
    url: str = ""
    sha256: str = ""
    source_id: str = ""
    """Id of the item in its dataset, if it has one."""

    def dump(self) -> str:
        """Return the item as a line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)


def read_items(folder: Path) -> Iterator[Collected]:
    """Yield the items of a finished task in the order of its rows."""
    with (folder / ITEMS).open(encoding="utf-8") as lines:
        for line in lines:
            with reading(folder / ITEMS, fix=f"remove {folder} and run the command again"):
                item = Collected(**json.loads(line))
            yield item


def join(plan: WorkPlan, source: SourcePlan) -> None:
    """Index a published translation by key in SQLite, for all tasks; skip it if it is done."""
    path = plan.work / source.name / JOINED
    if path.is_file():
        return
    published = source.recipe.published[source.target]
    recipe = dataclasses.replace(source.recipe, columns=published.renamed(source.recipe.columns))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".partial")
    fresh.unlink(missing_ok=True)
    ledger = Ledger()
    with sqlite3.connect(fresh) as table:
        table.execute(_JOIN_TABLE)
        for part in rows.split(published.place, per_part=1 << 40, has_head=recipe.has_head):
            for number, row in rows.read(part):
                ledger.num_in += 1
                try:
                    key, record = _make_translation(recipe, row, published.leave_out, source)
                    image = None
                    if published.by_place:
                        key, image = str(number), _digest_of_row(recipe, row)
                    if not key:
                        raise DroppedError("no key")
                    shown = (image.sha256, image.thumbnail) if image else (None, None)
                    table.execute(
                        "INSERT INTO texts VALUES (?, ?, ?, ?)", (key, json.dumps(record), *shown)
                    )
                    ledger.num_out += 1
                except sqlite3.IntegrityError:
                    _drop_all_rows(table, key, f"row {number}", ledger)
                except DroppedError as error:
                    ledger.drop(f"row {number}", error)
    table.close()
    atomic_write_text(path.with_suffix(".json"), json.dumps(ledger.dump(), ensure_ascii=False))
    fresh.replace(path)


def _digest_of_row(recipe: SourceRecipe, row: Any) -> ImageDigest | None:
    """Return the digest of the image in a row, or None if the row has none."""
    column = recipe.columns.get("image", "")
    if recipe.kind is Kind.BENCHMARK:
        column = recipe.benchmark_recipe.columns.image
    value = row.get(column)
    image = value.get("bytes") if isinstance(value, dict) else value
    return _digest(image) if isinstance(image, bytes) and image else None


def _digest(image: bytes) -> ImageDigest:
    try:
        return ImageDigest.of(image)
    except DataError as error:
        raise DroppedError(f"image: {Outcome.NOT_AN_IMAGE}", str(error)) from error


def _drop_all_rows(table: sqlite3.Connection, key: str, where: str, ledger: Ledger) -> None:
    """Drop all rows with a key that occurs twice: any of them may be another row's translation."""
    if table.execute(
        "UPDATE texts SET record = '' WHERE key = ? AND record <> ''", (key,)
    ).rowcount:
        ledger.num_out -= 1
        ledger.drop(f"first row with the key {key}", DroppedError(AMBIGUOUS_KEY))
    ledger.drop(where, DroppedError(AMBIGUOUS_KEY, key))


def _make_translation(
    recipe: Any, row: rows.DatasetRow | DroppedError, rules: dict[str, str], source: SourcePlan
) -> tuple[str, Record]:
    if isinstance(row, DroppedError):
        raise row
    leave_out(row, rules)
    item = make_item(recipe, row, "", base=source.target, target="", with_image=False)
    return item.join_key, item.records[source.target]


def collect(
    plan: WorkPlan, source: SourcePlan, number: int, on_progress: Callable[[int], None]
) -> Ledger:
    """Convert a part to items and fetch their images; resume if an earlier call was killed."""
    folder = plan.folder(source, number)
    if (folder / COLLECTED).is_file():
        return read_ledger(folder / COLLECTED)
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    ledger = Ledger()
    items = list(_read_rows(plan, source, source.parts[number], folder, ledger))
    on_progress(len(items))
    items = _fetch_images(plan, items, folder, ledger)
    ledger.num_out = len(items)
    ledger.check(f"{source.name}, part {number}, collect")
    atomic_write_text(folder / ITEMS, "".join(f"{item.dump()}\n" for item in items))
    atomic_write_text(folder / COLLECTED, json.dumps(ledger.dump(), ensure_ascii=False, indent=1))
    return ledger


def _read_rows(
    plan: WorkPlan, source: SourcePlan, part: Part, folder: Path, ledger: Ledger
) -> Iterator[Collected]:
    texts = _JoinedTexts(plan.work / source.name / JOINED) if source.is_joined else None
    for number, row in rows.read(part):
        ledger.num_in += 1
        key = f"{source.name}-{number:09d}"
        try:
            if isinstance(row, DroppedError):
                raise row
            item = make_item(source.recipe, row, key, base=source.language, target=source.target)
            if texts is not None:
                by_place = source.recipe.published[source.target].by_place
                item.records[source.target] = texts.find(
                    str(number) if by_place else item.join_key, item.image
                )
            yield _save_item(item, folder)
        except DroppedError as error:
            ledger.drop(key, error)


def _save_item(item: Item, folder: Path) -> Collected:
    """Check and save the embedded image of an item.

    Raises:
        DroppedError: If the image is broken or its hash differs.
    """
    collected = Collected(
        key=item.key,
        records=item.records,
        url=item.image_url,
        sha256=item.sha256,
        source_id=item.join_key,
    )
    if item.image is not None:
        try:
            decode_image(item.image)
        except DataError as error:
            raise DroppedError(f"image: {Outcome.NOT_AN_IMAGE}", str(error)) from error
        collected.image = _save_image(folder, item.image)
        if item.sha256 and item.sha256.lower() != collected.image:
            raise DroppedError(f"image: {Outcome.HASH_DIFFERS}", collected.image)
    return collected


def _save_image(folder: Path, image: bytes) -> str:
    """Save an image under its sha256 and return it."""
    digest = sha256_bytes(image)
    path = folder / IMAGES / digest
    if not path.is_file():
        atomic_write_bytes(path, image)
    return digest


class _JoinedTexts:
    """Published translations, looked up by key."""

    def __init__(self, path: Path) -> None:
        self._table = sqlite3.connect(f"file:{path}?mode=ro", uri=True)

    def find(self, key: str, image: bytes | None) -> Record:
        """Return the record with a key, whose image, if there is one, is that of the item."""
        query = "SELECT record, sha256, thumbnail FROM texts WHERE key = ?"
        found = self._table.execute(query, (key,)).fetchone()
        if found is None:
            raise DroppedError("not in the published translation", key)
        record, sha256, thumbnail = found
        if not record:
            raise DroppedError(AMBIGUOUS_KEY, key)
        if sha256 and image:
            shown = ImageDigest(sha256=sha256, thumbnail=thumbnail)
            if not _digest(image).is_same_image(shown):
                raise DroppedError("the published translation shows another image", key)
        return json.loads(record)


# --- images from the web ------------------------------------------------------------------------


def _fetch_images(
    plan: WorkPlan, items: list[Collected], folder: Path, ledger: Ledger
) -> list[Collected]:
    """Fetch the images of items with a URL; count and drop the items whose image is unavailable."""
    wanted = {
        (item.url, item.sha256): Wanted(url=item.url, sha256=item.sha256)
        for item in items
        if item.url
    }
    if not wanted:
        return items
    log = _FetchLog(folder)
    missing = [one for key, one in wanted.items() if key not in log.known]
    fetch_all(missing, plan.config.fetch, log.keep)
    log.close()
    with_image = []
    for item in items:
        if item.url:
            outcome, detail, digest = log.known[item.url, item.sha256]
            if outcome != Outcome.FETCHED:
                ledger.drop(item.key, DroppedError(f"image: {outcome}", f"{item.url}: {detail}"))
                continue
            item.image = digest
        with_image.append(item)
    return with_image


class _FetchLog:
    """Append-only log with the outcome of every download."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / _FETCHES
        self.known: dict[tuple[str, str], tuple[str, str, str]] = {
            (url, sha256): (outcome, detail, digest)
            for url, sha256, outcome, detail, digest in recover_jsonl(path)
        }
        self._file = JsonlWriter(path)

    def keep(self, fetched: Fetched) -> None:
        digest = ""
        if fetched.outcome is Outcome.FETCHED:
            digest = _save_image(self._folder, fetched.content)
        wanted = fetched.wanted
        self.known[wanted.url, wanted.sha256] = (fetched.outcome, fetched.detail, digest)
        self._file.write([wanted.url, wanted.sha256, fetched.outcome, fetched.detail, digest])

    def close(self) -> None:
        self._file.close()

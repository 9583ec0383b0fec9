"""Corrections of prepared data by annotators: read from their judgements, applied to a new version.

`python -m data_prep.fixes` is the command.
"""

import dataclasses
import json
import os
import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.chat.tokens import IMAGE_MARK
from core.errors import ConfigError, DataError
from core.io.reading import reading
from data_prep.prepare.items import texts_of, with_texts
from data_prep.prepare.reading.tables import read_table
from data_prep.prepare.steps.produce import QUESTION_ITEMS, RECORDS
from data_prep.shards.folder_metadata import write_metadata
from data_prep.shards.writer import ShardSample, write_shard
from datamodules.shards.manifest import (
    SUFFIX,
    Manifest,
    ShardEntry,
    load_manifest,
    open_shard,
    save_manifest,
)
from datamodules.shards.reader import index_path
from evaluation.benchmarks.gate import ItemGate
from evaluation.benchmarks.item_texts import parse_text


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fix:
    """A correction of one text of a sample."""

    at: int
    """Index of the text in its record."""
    text: str | None
    """The corrected text; None leaves the sample out."""


def read_fixes(path: Path) -> tuple[dict[str, list[Fix]], Counter[str], list[str]]:
    """Read the exported judgements.

    Returns:
        The fixes of each sample, the number of texts per verdict, and the texts on which the
        annotators disagree.

    Raises:
        DataError: If the file is not such an export.
    """
    judgements = _read_judgements(path)
    fixes: dict[str, list[Fix]] = defaultdict(list)
    counts, open_tasks = Counter[str](), []
    for task, by_annotator in judgements.items():
        answers = [(one, text) for one, text in by_annotator.values() if one != "skip"]
        if not answers:
            continue
        verdict = _find_majority([one for one, _ in answers])
        texts = {text for one, text in answers if one == "fix"}
        if verdict is None or (verdict == "fix" and len(texts) != 1):
            open_tasks.append(task)
            continue
        counts[verdict] += 1
        key, _, at = task.rpartition("-")
        if verdict != "accept" and not (key and at.isdecimal()):
            raise DataError(
                f"{path}: task '{task}' was not written by data_prep.prepare; export the "
                "annotations of its validate/ files",
                "no judgements",
            )
        if verdict != "accept":
            fixes[key].append(Fix(at=int(at), text=texts.pop() if verdict == "fix" else None))
    return dict(fixes), counts, sorted(open_tasks)


def _read_judgements(path: Path) -> dict[str, dict[str, tuple[str, str]]]:
    """Return task -> annotator -> verdict and corrected text."""
    judgements: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
    try:
        rows = read_table(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}", "no judgements") from error
    if not rows:
        raise DataError(f"{path} has no rows; export the judgements again", "no judgements")
    for number, row in enumerate(rows, start=2):
        task, verdict, text = (row.get(name) or "" for name in ("task", "verdict", "text"))
        annotator = row.get("annotator") or ""
        if not task or verdict not in ("accept", "fix", "reject", "skip"):
            raise DataError(
                f"{path}: a row lacks a task or a known verdict: {row}; export with "
                "evaluation.people.run",
                "no judgements",
            )
        if annotator in judgements[task]:
            raise DataError(
                f"{path}, line {number}: '{annotator}' judged task '{task}' twice; keep "
                "one of the rows",
                "no judgements",
            )
        if verdict == "fix":
            text = parse_text(text, f"{path}, line {number}, text", is_asked=False)
        judgements[task][annotator] = (verdict, text)
    return judgements


def _find_majority(verdicts: Sequence[str]) -> str | None:
    """Return the most frequent verdict, or None if there is a tie."""
    (first, most), *rest = Counter(verdicts).most_common()
    return None if rest and rest[0][1] == most else first


def apply_fixes(data: Path, out: Path, fixes: dict[str, list[Fix]], language: str) -> Counter[str]:
    """Write the new version atomically; shards without a fix are hard-linked.

    Raises:
        ConfigError: If the output folder exists.
        DataError: If a fix names a sample or a text that does not exist, or a corrected question
            can't be asked or scored.
    """
    if out.exists():
        raise ConfigError(f"{out} exists and is never overwritten; choose another --out")
    manifests = {path: load_manifest(path) for path in sorted(data.glob(f"*{SUFFIX}"))}
    if not manifests:
        raise DataError(f"no manifests in {data}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        part = Path(folder) / "version"
        part.mkdir()
        counts = _write_version(manifests, part, fixes, language)
        if (data / "report.json").is_file():
            shutil.copy(data / "report.json", part)
        part.rename(out)
    write_metadata(out, out.name)
    return counts


def _write_version(
    manifests: dict[Path, Manifest], out: Path, fixes: dict[str, list[Fix]], language: str
) -> Counter[str]:
    counts, known = Counter[str](), dict[str, ShardEntry | None]()
    missing = dict(fixes)
    for path, manifest in manifests.items():
        for entry in manifest.shards:
            if entry.path not in known:
                known[entry.path] = _rewrite(path, entry, out, missing, language, counts)
    if missing:
        raise DataError(f"fixes for samples that are not in the data: {sorted(missing)[:5]}")
    for path, manifest in manifests.items():
        shards = [found for entry in manifest.shards if (found := known[entry.path]) is not None]
        save_manifest(out / path.name, _with_fixes(manifest, shards, counts))
    return counts


def _with_fixes(manifest: Manifest, shards: list[ShardEntry], counts: Counter[str]) -> Manifest:
    """Return the manifest of the new version, which names the one it was made from."""
    old = (
        manifest.provenance
        if isinstance(manifest.provenance, dict)
        else {"is": manifest.provenance}
    )
    provenance = {**old, "fixes": {**counts, "of": manifest.fingerprint()}}
    return dataclasses.replace(manifest, shards=tuple(shards), provenance=provenance)


def _rewrite(
    manifest: Path,
    entry: ShardEntry,
    out: Path,
    fixes: dict[str, list[Fix]],
    language: str,
    counts: Counter[str],
) -> ShardEntry | None:
    """Rewrite or link one shard and remove the fixes it applied from `fixes`.

    Returns:
        The entry of the new shard, or None if no sample is left in it.
    """
    reader = open_shard(manifest, entry)
    samples, is_changed = list[ShardSample](), False
    for at in range(entry.num_samples):
        content, image = reader.read(at)
        with reading(f"{manifest}, sample {reader.key(at)}", fix="prepare the data again"):
            raw = json.loads(content)
            key = raw.pop("id")
        for name in [name for name in _fix_names(key, raw) if name in fixes]:
            is_changed = True
            _apply_to_sample(raw, name, fixes.pop(name), language, counts)
        if raw.get(QUESTION_ITEMS, True) and raw.get(RECORDS, True):
            samples.append(ShardSample(key=key, content=raw, image=image))
    if is_changed:
        return write_shard(out, entry.path, samples) if samples else None
    source = manifest.parent / entry.path
    for path in (source, index_path(source)):
        _link_or_copy(path, out / path.relative_to(manifest.parent))
    return entry


def _fix_names(key: str, raw: dict[str, Any]) -> list[str]:
    """Return the names that fixes use for a sample: its key, or the ids of its questions."""
    return (
        [str(item["question_id"]) for item in raw[QUESTION_ITEMS]]
        if QUESTION_ITEMS in raw
        else [key]
    )


def _apply_to_sample(
    raw: dict[str, Any], name: str, fixes: Sequence[Fix], language: str, counts: Counter[str]
) -> None:
    """Change the texts of a record, or remove the record, in place."""
    if QUESTION_ITEMS in raw:
        item = next(item for item in raw[QUESTION_ITEMS] if str(item["question_id"]) == name)
        parts = [part for part in ("question", "choices", "answers") if part in item]
        record: Any = {part: item[part][language] for part in parts}
    else:
        item, parts, record = raw, [], raw[RECORDS].get(language)
    if record is None:
        raise DataError(f"'{name}' has no record in '{language}'; correct --language")
    if any(fix.text is None for fix in fixes):
        counts["left out"] += 1
        if QUESTION_ITEMS in raw:
            raw[QUESTION_ITEMS].remove(item)
        else:
            raw[RECORDS] = {}
        return
    record = _correct(record, name, fixes)
    counts["changed"] += len(fixes)
    if QUESTION_ITEMS not in raw:
        raw[RECORDS][language] = record
    for part in parts:
        item[part][language] = record[part]
    if parts:
        ItemGate(str(item["benchmark"]), item["question"]).check(item, "corrected data")


def _correct(record: Any, name: str, fixes: Sequence[Fix]) -> Any:
    """Return a record with its corrected texts."""
    texts = texts_of(record)
    for fix in fixes:
        if fix.at >= len(texts):
            raise DataError(
                f"'{name}' has {len(texts)} texts, but text {fix.at} was judged; export the "
                "judgements of this version of the data"
            )
        if texts[fix.at].count(IMAGE_MARK) != str(fix.text).count(IMAGE_MARK):
            raise DataError(
                f"the correction of '{name}', text {fix.at}, adds or removes '{IMAGE_MARK}', "
                "which marks the position of the image; keep it unchanged"
            )
        texts[fix.at] = str(fix.text)
    return with_texts(record, texts)


def _link_or_copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, destination)
    except OSError:  # another file system
        shutil.copy(source, destination)

"""Command line: what people corrected becomes a new version of prepared data.

python -m data_prep.fixes --data data/prepared/eu --judgements fixes.csv --out data/prepared/eu-v2
"""

import argparse
import csv
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError, DataError
from core.process.command import clear_errors
from data_prep.prepare.data_card import write_card
from data_prep.prepare.items import texts_of, with_texts
from data_prep.prepare.produce import QUESTIONS, RECORDS
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

_EPILOG = """the CSV is what `evaluation.people.run --db people.db --export csv fixes.csv` writes.
Where several people judged a text: what most said counts; without a majority, or with two different
corrections, the text stays as it is and is named. A rejected text takes its sample with it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fix:
    """What is to be done about one text of one sample."""

    at: int
    """Number of the text in its record."""
    text: str | None
    """Instead of what was there; None: leave the sample out."""


def read_fixes(path: Path) -> tuple[dict[str, list[Fix]], Counter[str], list[str]]:
    """Sample -> its fixes; how the texts were judged; texts without an agreement.

    Raises:
        DataError: not such a CSV.
    """
    said: dict[str, list[tuple[str, str]]] = defaultdict(list)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} can't be read as CSV: {error}", "no judgements") from error
    for row in rows:
        if not row.get("task") or row.get("verdict") not in ("accept", "fix", "reject", "skip"):
            raise DataError(f"{path}: a row without task or verdict: {row}", "no judgements")
        if row["verdict"] != "skip":
            said[row["task"]].append((row["verdict"], row.get("text") or ""))
    fixes: dict[str, list[Fix]] = defaultdict(list)
    counts, open_tasks = Counter[str](), []
    for task, answers in said.items():
        verdict = _majority([one for one, _ in answers])
        texts = {text.strip() for one, text in answers if one == "fix"}
        if verdict is None or (verdict == "fix" and len(texts) != 1):
            open_tasks.append(task)
            continue
        counts[verdict] += 1
        key, _, at = task.rpartition("-")
        if verdict != "accept" and not (key and at.isdecimal()):
            raise DataError(
                f"{path}: task '{task}' is none of data_prep.prepare's", "no judgements"
            )
        if verdict != "accept":
            fixes[key].append(Fix(at=int(at), text=texts.pop() if verdict == "fix" else None))
    return dict(fixes), counts, sorted(open_tasks)


def _majority(verdicts: Sequence[str]) -> str | None:
    (first, most), *rest = Counter(verdicts).most_common()
    return None if rest and rest[0][1] == most else first


def apply_fixes(data: Path, out: Path, fixes: dict[str, list[Fix]], language: str) -> Counter[str]:
    """Write the new version, whole or not at all; shards that nobody touched are linked.

    Raises:
        ConfigError: the new folder exists.
        DataError: a fix for a sample or text that is not there.
    """
    if out.exists():
        raise ConfigError(f"{out} exists; a version is never written over: name another --out")
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
    write_card(out)
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
        kept = [found for entry in manifest.shards if (found := known[entry.path]) is not None]
        save_manifest(out / path.name, _next(manifest, kept, counts))
    return counts


def _next(manifest: Manifest, shards: list[ShardEntry], counts: Counter[str]) -> Manifest:
    told = (
        manifest.provenance
        if isinstance(manifest.provenance, dict)
        else {"is": manifest.provenance}
    )
    provenance = {**told, "fixes": {**counts, "of": manifest.fingerprint()}}
    return dataclasses.replace(manifest, shards=tuple(shards), provenance=provenance)


def _rewrite(
    manifest: Path,
    entry: ShardEntry,
    out: Path,
    fixes: dict[str, list[Fix]],
    language: str,
    counts: Counter[str],
) -> ShardEntry | None:
    """The shard as it is now; takes the fixes it applied out of `fixes`."""
    reader = open_shard(manifest, entry)
    samples, is_changed = list[ShardSample](), False
    for at in range(entry.num_samples):
        content, image = reader.read(at)
        raw = json.loads(content)
        key = raw.pop("id")
        touched = [name for name in _names(key, raw) if name in fixes]
        for name in touched:
            is_changed = True
            _change(raw, name, fixes.pop(name), language, counts)
        if raw.get(QUESTIONS, True) and raw.get(RECORDS, True):
            samples.append(ShardSample(key=key, content=raw, image=image))
    if is_changed:
        return write_shard(out, entry.path, samples) if samples else None
    source = manifest.parent / entry.path
    for path in (source, index_path(source)):
        _link(path, out / path.relative_to(manifest.parent))
    return entry


def _names(key: str, raw: dict[str, Any]) -> list[str]:
    """What the fixes call a sample, or its questions."""
    return [str(item["question_id"]) for item in raw[QUESTIONS]] if QUESTIONS in raw else [key]


def _change(
    raw: dict[str, Any], name: str, fixes: Sequence[Fix], language: str, counts: Counter[str]
) -> None:
    if QUESTIONS in raw:
        item = next(item for item in raw[QUESTIONS] if str(item["question_id"]) == name)
        parts = [part for part in ("question", "choices", "answers") if part in item]
        record: Any = {part: item[part][language] for part in parts}
    else:
        item, parts, record = raw, [], raw[RECORDS].get(language)
    if record is None:
        raise DataError(f"'{name}' has no record in '{language}'; name its --language")
    if any(fix.text is None for fix in fixes):
        counts["left out"] += 1
        if QUESTIONS in raw:
            raw[QUESTIONS].remove(item)
        else:
            raw[RECORDS] = {}
        return
    texts = texts_of(record)
    for fix in fixes:
        if fix.at >= len(texts):
            raise DataError(f"'{name}' has {len(texts)} texts, none of number {fix.at}")
        texts[fix.at] = str(fix.text)
        counts["changed"] += 1
    record = with_texts(record, texts)
    if QUESTIONS not in raw:
        raw[RECORDS][language] = record
    for part in parts:
        item[part][language] = record[part]


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy(source, target)


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Apply, and say what was done."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.fixes",
        description="Take people's corrections of translations into a new version of the data.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="prepared data")
    add("--judgements", type=Path, required=True, help="CSV exported by the annotation page")
    add("--language", required=True, help="language of the corrected texts")
    add("--out", type=Path, required=True, help="a new folder")
    options = parser.parse_args(arguments)
    console = Console()
    fixes, judged, unsettled = read_fixes(options.judgements)
    counts = apply_fixes(options.data, options.out, fixes, options.language)
    console.print(f"judged: {dict(judged)}; done: {dict(counts)}", highlight=False)
    if unsettled:
        console.print(
            f"{len(unsettled)} without an agreement, left as they are: {', '.join(unsettled[:5])}",
            highlight=False,
        )
    console.print(escape(str(options.out)), highlight=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

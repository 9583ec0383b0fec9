"""Scans shards of any origin and writes what makes them a source: indexes and a manifest.

Every finished shard is noted in `{name}.index/scanned.json`, so that an interrupted or extended
build scans only what is new. Kept apart from `index`, which is the command around it.
"""

import dataclasses
import json
import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from core.errors import DataError, IrudimenError
from core.io.files import atomic_write_bytes, atomic_write_text, sha256_bytes, sha256_file
from core.samples import Sample, Turn
from data_prep.index.inputs import local_path, shard_state, shard_stream
from data_prep.index.lengths import LengthsPlan
from data_prep.shards.writer import SourceInfo, write_manifest
from datamodules.batches.lengths import lengths_name
from datamodules.shards.manifest import INDEX_SUFFIX, IndexEntry, Modality, ShardEntry
from datamodules.shards.tar_scan import ScanRules, guess_record, scan_tar
from datamodules.storage.remote import RetryConfig, shown

AUTO = "auto"
_FORMAT = 1
_SCANNED = "scanned.json"
_SHOWN_ERRORS = 5
_SAVE_EVERY_S = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IndexPlan:
    """What to index, and as what."""

    shards: tuple[str, ...]
    """Absolute local paths and URLs, in the order of the source."""
    name: str
    language: str
    modality: Modality
    record: str
    """Where the records lie (`datamodules.shards.records`), or AUTO."""
    out: Path
    """Folder of the manifest."""
    licence: str = "unknown"
    provenance: str = ""
    jobs: int = 1
    max_unusable: float = 0.01
    """Fail when a larger share of the samples than this can't be used."""
    retry: RetryConfig = dataclasses.field(default_factory=RetryConfig)
    lengths: LengthsPlan | None = None
    """Also measure the samples in this chat format; None leaves it to the first training."""

    @property
    def has_image(self) -> bool:
        """Whether every sample needs an image."""
        return self.modality is Modality.IMAGE_TEXT


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """What one scan found, as it is kept between builds."""

    stamp: str
    """Changes when the file does, as far as its store tells without reading it."""
    sha256: str
    num_bytes: int
    num_samples: int
    index: str
    """Name of the index file."""
    index_sha256: str
    unusable: dict[str, int]
    examples: dict[str, str]
    ignored: dict[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildReport:
    """What a build found in all shards."""

    manifest: Path
    record: str
    num_samples: int
    num_bytes: int
    index_bytes: int
    num_reused: int
    """Shards that an earlier build had scanned."""
    empty_shards: tuple[str, ...]
    """Shards without a usable sample, left out of the manifest."""
    unusable: Counter[str]
    examples: dict[str, str]
    ignored: Counter[str]


def build_source(plan: IndexPlan, on_shard: Callable[[int, int], None]) -> BuildReport:
    """Scan what was not scanned yet and write the manifest.

    Args:
        plan: What to do.
        on_shard: Called after every shard with its usable and unusable samples.

    Raises:
        DataError: broken shards (all are named, the others stay scanned), or too many unusable
            samples.
        StorageError: remote shards that can't be read.
    """
    folder = plan.out / f"{plan.name}{INDEX_SUFFIX}"
    plan, reports = _resume(plan, folder)
    num_reused = len(reports)
    for report in reports.values():
        on_shard(report.num_samples, sum(report.unusable.values()))
    missing = [shard for shard in plan.shards if shard not in reports]
    errors: list[str] = []
    saved_at = time.monotonic()
    try:
        for shard, result in _scan_all(plan, folder, missing):
            if isinstance(result, IrudimenError):
                errors.append(str(result))
                continue
            reports[shard] = result
            on_shard(result.num_samples, sum(result.unusable.values()))
            if time.monotonic() - saved_at > _SAVE_EVERY_S:
                _save(folder, plan, reports)
                saved_at = time.monotonic()
    finally:
        _save(folder, plan, reports)
    if errors:
        rest = f"; and {len(errors) - _SHOWN_ERRORS} more" if len(errors) > _SHOWN_ERRORS else ""
        raise DataError(
            f"{len(errors)} of {len(plan.shards)} shards can't be indexed: "
            f"{'; '.join(errors[:_SHOWN_ERRORS])}{rest}. Repair them or leave them out; the "
            "others need no second scan"
        )
    return _finish(plan, {shard: reports[shard] for shard in plan.shards}, num_reused)


def _resume(plan: IndexPlan, folder: Path) -> tuple[IndexPlan, dict[str, ShardReport]]:
    """The plan with its record decided, and the reports that still hold."""
    saved = _saved(folder / _SCANNED)
    is_same_kind = saved.get("has_image") == plan.has_image
    if plan.record == AUTO:
        record = saved["record"] if is_same_kind else _guess(plan)
        plan = dataclasses.replace(plan, record=record)
    if not is_same_kind or saved["record"] != plan.record:
        return plan, {}
    reports = {shard: ShardReport(**raw) for shard, raw in saved["shards"].items()}
    held = {shard: _still_holds(shard, reports.get(shard), folder, plan) for shard in plan.shards}
    return plan, {shard: report for shard, report in held.items() if report is not None}


def _saved(path: Path) -> dict[str, Any]:
    """What earlier builds noted; {} before the first one."""
    if not path.is_file():
        return {}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        is_known = saved["format"] == _FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error!r}); delete it to scan all again") from error
    if not is_known:
        raise DataError(f"{path} has format {saved['format']!r}, expected {_FORMAT}; delete it")
    return dict(saved)


def _still_holds(
    shard: str, report: ShardReport | None, folder: Path, plan: IndexPlan
) -> ShardReport | None:
    """An earlier report if the shard and its index are still the same."""
    if report is None:
        return None
    index = folder / report.index
    if not index.is_file() or sha256_file(index) != report.index_sha256:
        return None
    if not all(path.is_file() for path in _lengths_paths(plan, folder, report.sha256)):
        return None
    state, path = shard_state(shard, plan.retry), local_path(shard)
    if state.num_bytes != report.num_bytes:
        return None
    if state.stamp == report.stamp:
        return report
    # Another time or place, perhaps the same bytes: a checksum is cheaper than a scan.
    is_same = path is not None and sha256_file(path) == report.sha256
    return dataclasses.replace(report, stamp=state.stamp) if is_same else None


def _save(folder: Path, plan: IndexPlan, reports: dict[str, ShardReport]) -> None:
    content = {
        "format": _FORMAT,
        "record": plan.record,
        "has_image": plan.has_image,
        "shards": {shard: dataclasses.asdict(report) for shard, report in reports.items()},
    }
    atomic_write_text(folder / _SCANNED, json.dumps(content, indent=1) + "\n")


def _guess(plan: IndexPlan) -> str:
    with shard_stream(plan.shards[0], plan.retry) as stream:
        return guess_record(stream, shown(plan.shards[0]), has_image=plan.has_image)


def _scan_all(
    plan: IndexPlan, folder: Path, shards: Sequence[str]
) -> Iterator[tuple[str, ShardReport | IrudimenError]]:
    """Scan in this process, or in several; results come as they are ready."""
    if plan.jobs == 1 or len(shards) <= 1:
        for shard in shards:
            yield shard, _scan(plan, folder, shard)
        return
    # fork: the workers need not import everything again; fsspec starts afresh after a fork.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(plan.jobs, len(shards)), mp_context=context) as pool:
        futures: dict[Future[ShardReport | IrudimenError], str] = {
            pool.submit(_scan, plan, folder, shard): shard for shard in shards
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def _scan(plan: IndexPlan, folder: Path, shard: str) -> ShardReport | IrudimenError:
    """Scan one shard and write its index; an error is a result, the others go on."""
    try:
        stamp = shard_state(shard, plan.retry).stamp
        rules = ScanRules(record=plan.record, has_image=plan.has_image)
        lengths = [] if plan.lengths is None else plan.lengths.counters()

        def measure(key: str, turns: tuple[Turn, ...]) -> None:
            image = b"" if plan.has_image else None
            sample = Sample(
                key=key,
                source=plan.name,
                language=plan.language,
                parallel_id=key,
                turns=turns,
                image=image,
            )
            for counter in lengths:
                counter.add(sample)

        with shard_stream(shard, plan.retry) as stream:
            result = scan_tar(stream, shown(shard), rules, measure if lengths else None)
    except IrudimenError as error:
        return error
    index = result.index.to_bytes()
    stem = PurePosixPath(urlsplit(shard).path).stem
    name = f"{stem}-{result.sha256[:12]}.index"
    for counter, path in zip(lengths, _lengths_paths(plan, folder, result.sha256), strict=True):
        counter.save(path)
    atomic_write_bytes(folder / name, index)
    return ShardReport(
        stamp=stamp,
        sha256=result.sha256,
        num_bytes=result.num_bytes,
        num_samples=len(result.index),
        index=name,
        index_sha256=sha256_bytes(index),
        unusable=dict(result.unusable),
        examples=result.examples,
        ignored=dict(result.ignored),
    )


def _lengths_paths(plan: IndexPlan, folder: Path, sha256: str) -> list[Path]:
    """Where the lengths of a shard lie, by prompt style."""
    addresses = [] if plan.lengths is None else plan.lengths.addresses()
    return [folder / lengths_name(plan.name, plan.record, sha256, a) for a in addresses]


def _finish(plan: IndexPlan, reports: dict[str, ShardReport], num_reused: int) -> BuildReport:
    unusable, ignored, examples = Counter[str](), Counter[str](), dict[str, str]()
    for report in reports.values():
        unusable.update(report.unusable)
        ignored.update(report.ignored)
        examples = report.examples | examples
    entries = [_entry(plan, shard, report) for shard, report in reports.items()]
    usable = [entry for entry in entries if entry.num_samples]
    num_samples = sum(entry.num_samples for entry in usable)
    _check_budget(plan, num_samples, unusable, examples)
    info = SourceInfo(
        name=plan.name,
        language=plan.language,
        modality=plan.modality,
        record=plan.record,
        licence=plan.licence,
        provenance={"shards": plan.provenance or "existing WebDataset shards"},
        statistics={"unusable": dict(unusable), "ignored_members": dict(ignored)},
    )
    return BuildReport(
        manifest=write_manifest(plan.out, info, usable),
        record=plan.record,
        num_samples=num_samples,
        num_bytes=sum(entry.num_bytes for entry in usable),
        index_bytes=sum(entry.index.num_bytes for entry in usable if entry.index is not None),
        num_reused=num_reused,
        empty_shards=tuple(shard for shard, r in reports.items() if not r.num_samples),
        unusable=unusable,
        examples=examples,
        ignored=ignored,
    )


def _check_budget(
    plan: IndexPlan, num_samples: int, unusable: Counter[str], examples: dict[str, str]
) -> None:
    num_unusable, total = unusable.total(), num_samples + unusable.total()
    if num_samples and num_unusable <= plan.max_unusable * total:
        return
    reasons = "; ".join(
        f"{count} x {reason} (first: {examples[reason]})"
        for reason, count in unusable.most_common()
    )
    raise DataError(
        f"source '{plan.name}': {num_unusable} of {total} samples can't be used, more than "
        f"--max-unusable {plan.max_unusable:g} allows: {reasons or 'the shards are empty'}. "
        "Correct --record or --modality, repair the shards, or raise the budget (nothing is "
        "scanned again)"
    )


def _entry(plan: IndexPlan, shard: str, report: ShardReport) -> ShardEntry:
    path = local_path(shard)
    if path is None:
        place = shard
    elif path.is_relative_to(plan.out.resolve()):
        place = path.relative_to(plan.out.resolve()).as_posix()
    else:
        place = f"file://{path}"
    index = f"{plan.name}{INDEX_SUFFIX}/{report.index}"
    return ShardEntry(
        path=place,
        sha256=report.sha256,
        num_bytes=report.num_bytes,
        num_samples=report.num_samples,
        index=IndexEntry(
            path=index,
            sha256=report.index_sha256,
            num_bytes=(plan.out / index).stat().st_size,
        ),
    )

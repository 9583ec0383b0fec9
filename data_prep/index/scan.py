"""Scan of existing shards, which writes their indexes and a manifest.

Every scanned shard is recorded in `{name}.index/scanned.json`, so that an interrupted or extended
build scans only new shards.
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
from datamodules.shards.tar_scan import REPEATED_KEY, ScanRules, guess_record, scan_tar
from datamodules.storage.remote import RetryConfig, redact_url

AUTO = "auto"
_SCAN_FORMAT = 3
_SCANNED = "scanned.json"
_MAX_ERRORS = 5
_SAVE_EVERY_S = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IndexPlan:
    """Shards to index and the properties of the resulting source."""

    shards: tuple[str, ...]
    """Absolute local paths and URLs, in the order of the source."""
    name: str
    language: str
    modality: Modality
    record: str
    """Location of the records (`datamodules.shards.records`), or AUTO."""
    out: Path
    """Folder of the manifest."""
    licence: str = "unknown"
    provenance: str = ""
    jobs: int = 1
    max_unusable: float = 0.01
    """Maximum share of unusable samples."""
    retry: RetryConfig = dataclasses.field(default_factory=RetryConfig)
    lengths: LengthsPlan | None = None
    """Chat format to measure the samples in; None leaves it to the first training."""

    @property
    def has_image(self) -> bool:
        """True if every sample needs an image."""
        return self.modality is Modality.IMAGE_TEXT


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShardReport:
    """Result of the scan of a shard, saved between builds."""

    stamp: str
    """`ShardState.stamp` of the scanned file."""
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
    """Result of a build over all shards."""

    manifest: Path
    record: str
    num_samples: int
    num_bytes: int
    index_bytes: int
    num_reused: int
    """Number of shards that an earlier build scanned."""
    empty_shards: tuple[str, ...]
    """Shards without a usable sample, left out of the manifest."""
    unusable: Counter[str]
    examples: dict[str, str]
    ignored: Counter[str]


def build_source(plan: IndexPlan, on_shard: Callable[[int, int], None]) -> BuildReport:
    """Scan the shards that no earlier build scanned, and write the manifest.

    Args:
        plan: The shards and the properties of the source.
        on_shard: Called after every shard with its numbers of usable and unusable samples.

    Raises:
        DataError: If shards are broken (the message lists them, the others stay scanned), or too
            many samples are unusable.
        StorageError: If remote shards cannot be read.
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
                _save_scanned(folder, plan, reports)
                saved_at = time.monotonic()
    finally:
        _save_scanned(folder, plan, reports)
    if errors:
        rest = f"; and {len(errors) - _MAX_ERRORS} more" if len(errors) > _MAX_ERRORS else ""
        raise DataError(
            f"{len(errors)} of {len(plan.shards)} shards cannot be indexed: "
            f"{'; '.join(errors[:_MAX_ERRORS])}{rest}. Repair them or leave them out; the "
            "others are not scanned again"
        )
    return _write_source(plan, {shard: reports[shard] for shard in plan.shards}, num_reused)


def _resume(plan: IndexPlan, folder: Path) -> tuple[IndexPlan, dict[str, ShardReport]]:
    """Resolve the record of the plan and return the reports that are still valid."""
    saved = _load_scanned(folder / _SCANNED)
    wanted = (plan.has_image, plan.language)
    is_same_kind = (saved.get("has_image"), saved.get("language")) == wanted
    if plan.record == AUTO:
        record = saved["record"] if is_same_kind else _guess_record(plan)
        plan = dataclasses.replace(plan, record=record)
    if not is_same_kind or saved["record"] != plan.record:
        return plan, {}
    reports = {shard: ShardReport(**raw) for shard, raw in saved["shards"].items()}
    valid = {shard: _validate(shard, reports.get(shard), folder, plan) for shard in plan.shards}
    return plan, {shard: report for shard, report in valid.items() if report is not None}


def _load_scanned(path: Path) -> dict[str, Any]:
    """Load the records of earlier builds; {} before the first one."""
    if not path.is_file():
        return {}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        is_known = saved["format"] == _SCAN_FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error!r}); delete it to scan all shards") from error
    if not is_known:
        found = saved["format"]
        raise DataError(f"{path} has format {found!r}, expected {_SCAN_FORMAT}; delete it")
    return dict(saved)


def _validate(
    shard: str, report: ShardReport | None, folder: Path, plan: IndexPlan
) -> ShardReport | None:
    """Return an earlier report if the shard and its index have not changed."""
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
    # The file was touched or moved but may be unchanged; a checksum is cheaper than a scan.
    is_same = path is not None and sha256_file(path) == report.sha256
    return dataclasses.replace(report, stamp=state.stamp) if is_same else None


def _save_scanned(folder: Path, plan: IndexPlan, reports: dict[str, ShardReport]) -> None:
    content = {
        "format": _SCAN_FORMAT,
        "record": plan.record,
        "language": plan.language,
        "has_image": plan.has_image,
        "shards": {shard: dataclasses.asdict(report) for shard, report in reports.items()},
    }
    atomic_write_text(folder / _SCANNED, json.dumps(content, indent=1) + "\n")


def _guess_record(plan: IndexPlan) -> str:
    """Detect the location of the records from the first shard that has samples."""
    for shard in plan.shards:
        with shard_stream(shard, plan.retry) as stream:
            record = guess_record(stream, redact_url(shard), has_image=plan.has_image)
        if record is not None:
            return record
    raise DataError("the shards have no samples; there is nothing to index")


def _scan_all(
    plan: IndexPlan, folder: Path, shards: Sequence[str]
) -> Iterator[tuple[str, ShardReport | IrudimenError]]:
    """Scan in this process or in parallel, and yield the results as they complete."""
    if plan.jobs == 1 or len(shards) <= 1:
        for shard in shards:
            yield shard, _scan_shard(plan, folder, shard)
        return
    # Forked workers skip the imports; fsspec reinitialises itself after a fork.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(min(plan.jobs, len(shards)), mp_context=context) as pool:
        futures: dict[Future[ShardReport | IrudimenError], str] = {
            pool.submit(_scan_shard, plan, folder, shard): shard for shard in shards
        }
        for future in as_completed(futures):
            yield futures[future], future.result()


def _scan_shard(plan: IndexPlan, folder: Path, shard: str) -> ShardReport | IrudimenError:
    """Scan a shard and write its index; return an error so that other scans continue."""
    try:
        stamp = shard_state(shard, plan.retry).stamp
        rules = ScanRules(record=plan.record, language=plan.language, has_image=plan.has_image)
        lengths = [] if plan.lengths is None else plan.lengths.counters()

        def measure(key: str, turns: tuple[Turn, ...] | DataError) -> None:
            for counter in lengths:
                counter.add(turns if isinstance(turns, DataError) else _sample(plan, key, turns))

        with shard_stream(shard, plan.retry) as stream:
            result = scan_tar(stream, redact_url(shard), rules, measure if lengths else None)
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


def _sample(plan: IndexPlan, key: str, turns: tuple[Turn, ...]) -> Sample:
    return Sample(
        key=key,
        source=plan.name,
        language=plan.language,
        parallel_id=key,
        turns=turns,
        image=b"" if plan.has_image else None,
    )


def _lengths_paths(plan: IndexPlan, folder: Path, sha256: str) -> list[Path]:
    """Return the paths of the lengths of a shard, one per prompt style."""
    addresses = [] if plan.lengths is None else plan.lengths.addresses()
    return [folder / lengths_name(plan.name, plan.record, sha256, a) for a in addresses]


def _write_source(plan: IndexPlan, reports: dict[str, ShardReport], num_reused: int) -> BuildReport:
    unusable, ignored, examples = Counter[str](), Counter[str](), dict[str, str]()
    shard_of: dict[str, str] = {}
    for shard, report in reports.items():
        if report.num_samples and (same := shard_of.setdefault(report.sha256, shard)) != shard:
            raise DataError(
                f"{redact_url(shard)} is a copy of {redact_url(same)}; remove one, or every "
                "sample would be used twice"
            )
        unusable.update(report.unusable)
        ignored.update(report.ignored)
        examples = report.examples | examples
    entries = [_make_shard_entry(plan, shard, report) for shard, report in reports.items()]
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
    packing = "Pack members of a sample together (tar --sort=name). " * (REPEATED_KEY in unusable)
    raise DataError(
        f"source '{plan.name}': {num_unusable} of {total} samples are unusable, more than "
        f"--max-unusable {plan.max_unusable:g} allows: {reasons or 'the shards are empty'}. "
        f"{packing}Correct --record or --modality, repair the shards, or raise --max-unusable (no "
        "shard is scanned again)"
    )


def _make_shard_entry(plan: IndexPlan, shard: str, report: ShardReport) -> ShardEntry:
    path = local_path(shard)
    if path is None:
        place = shard
    elif path.is_relative_to(plan.out.resolve()):
        place = path.relative_to(plan.out.resolve()).as_posix()
    else:
        place = f"file://{path}"
    index = f"{plan.name}{INDEX_SUFFIX}/{report.index}"
    size = (plan.out / index).stat().st_size
    return ShardEntry(
        path=place,
        sha256=report.sha256,
        num_bytes=report.num_bytes,
        num_samples=report.num_samples,
        index=IndexEntry(path=index, sha256=report.index_sha256, num_bytes=size),
    )

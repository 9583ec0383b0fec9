"""Conversion of conversation files to the shards of one source, or two with text-only data."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import DataError
from data_prep.foreign.columns import check_roles, find_columns
from data_prep.foreign.samples import convert_row
from data_prep.prepare.faults import DroppedError, Ledger
from data_prep.prepare.reading import rows
from data_prep.shards.folder_metadata import write_metadata
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shard
from datamodules.shards.manifest import Modality, ShardEntry

_ALL_ROWS = 1 << 40
_KEY_DIGITS = 9
_FIRST_ROWS = 1000
"""The conversion ends after so many rows if none of them can be used."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConversionPlan:
    """Files to convert, and the properties of the resulting source."""

    files: tuple[str, ...]
    """Files, globs or URLs, in the order of the source."""
    images: Path | None
    """Folder to which the paths of images are relative."""
    columns: Mapping[str, str]
    """Role -> column, where names are not the usual ones."""
    name: str
    language: str
    licence: str
    out: Path
    per_shard: int
    limit: int
    """Maximum number of rows; 0 for all."""
    max_unusable: float
    """Maximum share of rows that can't be used."""
    origin: str = ""
    """Where the files were downloaded from; empty for files of the user."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConversionReport:
    """Result of a conversion."""

    manifests: dict[Modality, Path]
    num_samples: dict[Modality, int]
    num_recoded: int
    """Images that were re-encoded as PNG."""
    num_respelled: int
    """Images whose file was found under another spelling of its path."""
    unused: Counter[str]
    """Columns that no record contains, and the number of rows that fill them."""
    ledger: Ledger


def convert(plan: ConversionPlan, on_row: Callable[[], None]) -> ConversionReport:
    """Convert all rows; conversations without an image become a source of their own.

    Raises:
        DataError: If a file is damaged, or too many rows can't be used.
        ConfigError: If a file does not exist or its format is not supported, or a role of
            `plan.columns` is unknown.
    """
    check_roles(plan.columns)
    ledger, num_recoded, num_respelled = Ledger(), 0, 0
    filled, used = Counter[str](), set[str]()
    writers = {
        Modality.IMAGE_TEXT: _SourceWriter(plan, Modality.IMAGE_TEXT, plan.name),
        Modality.TEXT: _SourceWriter(plan, Modality.TEXT, f"{plan.name}_text"),
    }
    parts = [
        dataclasses.replace(part, reads_images=False)
        for place in plan.files
        for part in rows.split(place, per_part=_ALL_ROWS)
    ]
    for part in parts:
        for _, row in rows.read(part):
            if plan.limit and ledger.num_in >= plan.limit:
                break
            key = f"{ledger.num_in:0{_KEY_DIGITS}d}"
            ledger.num_in += 1
            on_row()
            try:
                if isinstance(row, DroppedError):
                    raise row
                filled.update(name for name, value in row.items() if value not in (None, ""))
                columns = find_columns(row, plan.columns)
                used.update(columns.names.values())
                sample = convert_row(row, columns, plan.images)
            except DroppedError as error:
                ledger.drop(f"row {key}", error)
                if ledger.num_in == _FIRST_ROWS and not ledger.num_out:
                    _check_budget(plan, ledger, filled)
                continue
            num_recoded += sample.is_recoded
            num_respelled += sample.is_respelled
            modality = Modality.TEXT if sample.image is None else Modality.IMAGE_TEXT
            content: dict[str, Any] = {"messages": sample.messages}
            writers[modality].add(ShardSample(key=key, content=content, image=sample.image))
            ledger.num_out += 1
    ledger.check("conversion")
    _check_budget(plan, ledger, filled)
    manifests = {modality: path for modality, w in writers.items() if (path := w.close(ledger))}
    write_metadata(plan.out, plan.name)
    return ConversionReport(
        manifests=manifests,
        num_samples={modality: writers[modality].num_samples for modality in manifests},
        num_recoded=num_recoded,
        num_respelled=num_respelled,
        unused=Counter({name: filled[name] for name in filled if name not in used}),
        ledger=ledger,
    )


def _check_budget(plan: ConversionPlan, ledger: Ledger, filled: Counter[str]) -> None:
    for role, name in plan.columns.items():
        if name not in filled:
            raise DataError(
                f"no row has a value in the column '{name}' (--columns {role}={name}); the "
                f"columns are {', '.join(filled)}"
            )
    num_unusable = ledger.dropped.total()
    if ledger.num_out and num_unusable <= plan.max_unusable * ledger.num_in:
        return
    reasons = "; ".join(
        f"{count} x {reason} (first: {ledger.examples[reason][0]})"
        for reason, count in ledger.dropped.most_common()
    )
    raise DataError(
        f"{num_unusable} of {ledger.num_in} rows are unusable, more than --max-unusable "
        f"{plan.max_unusable:g} allows: {reasons or 'the files have no rows'}. Correct --images, "
        "--columns or the files, or raise --max-unusable"
    )


class _SourceWriter:
    """Writes the samples of a source to shards as they come."""

    def __init__(self, plan: ConversionPlan, modality: Modality, name: str) -> None:
        self._plan, self._modality = plan, modality
        self._name = f"{name}_{plan.language}"
        self._waiting: list[ShardSample] = []
        self._shards: list[ShardEntry] = []

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return sum(shard.num_samples for shard in self._shards) + len(self._waiting)

    def add(self, sample: ShardSample) -> None:
        """Add a sample, and write a shard once it is full."""
        self._waiting.append(sample)
        if len(self._waiting) >= self._plan.per_shard:
            self._write()

    def close(self, ledger: Ledger) -> Path | None:
        """Write the rest and the manifest, and return its path; None without samples."""
        if self._waiting:
            self._write()
        if not self._shards:
            return None
        plan = self._plan
        info = SourceInfo(
            name=self._name,
            language=plan.language,
            modality=self._modality,
            record="",
            licence=plan.licence,
            provenance={
                "files": [Path(file).name for file in plan.files],
                **({"origin": plan.origin} if plan.origin else {}),
            },
            statistics={"rows": ledger.num_in, "unusable": dict(sorted(ledger.dropped.items()))},
        )
        return write_manifest(plan.out, info, self._shards)

    def _write(self) -> None:
        name = f"{self._name}-{len(self._shards):06d}.tar"
        self._shards.append(write_shard(self._plan.out, name, self._waiting))
        self._waiting = []

"""Parquet files, local or on the Hugging Face hub, as sources of a run, converted once."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from core import config
from core.errors import ConfigError, DataError
from core.file_names import FILE_NAME, FILE_NAME_ADVICE, LANGUAGE_CODE
from core.io.files import sha256_once, sole_writer
from core.process.log import get_logger
from data_prep.shards.croissant import CROISSANT_FILE
from datamodules.shards.manifest import SUFFIX

CONVERTED = Path("data/converted")
"""Folder of the converted sources, one folder per content."""
_PARQUET = ".parquet"
_PER_SHARD = 1000
_MAX_UNUSABLE = 0.01
_HASH_DIGITS = 16
_LOG = get_logger("data")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Tables:
    """Files that become one source in one language."""

    source: str
    language: str
    sha256: Mapping[str, str]
    """Name of a file -> hash of its contents, in the order of the rows."""
    fetch: Callable[[], Sequence[Path]]
    """Return the files in that order."""
    origin: str = ""
    """Location on the hub; empty for local files."""


def convert_tables(where: str, place: str, languages: Sequence[str]) -> list[Path]:
    """Return the manifests of the Parquet files at a location; none if it holds no such files.

    A location is a file NAME_LANGUAGE.parquet, a folder NAME_LANGUAGE whose files are one source,
    or FOLDER/NAME for the files FOLDER/NAME_LANGUAGE.parquet; or files of a data set on the hub
    (`data_prep.foreign.hub_tables`). The rows become samples in the order of the files' names and
    of the rows in them, with their images, by `data_prep.foreign`. Files with the same contents are
    converted once, and never again.

    Args:
        where: Setting that names the location, for error messages.
        place: The location.
        languages: Codes of the languages of the run, by which files on the hub are found.

    Raises:
        ConfigError: If a name has no language, another command converts the files, or files on the
            hub can't be downloaded.
        DataError: If a file is damaged, or more than 1 % of its rows can't be used.
    """
    is_remote = "://" in place
    found = _find_on_hub(where, place, languages) if is_remote else _find_local(where, Path(place))
    return [manifest for tables in found for manifest in _convert_once(where, tables)]


def _find_on_hub(where: str, place: str, languages: Sequence[str]) -> Iterator[_Tables]:
    # Few runs read from the hub; its client takes a second to import.
    from data_prep.foreign import hub_tables

    record = CONVERTED / f"hub-{config.fingerprint(place)[:_HASH_DIGITS]}.json"
    found = hub_tables.find_hub_tables(where, place, languages, record)
    for language, names in hub_tables.group_by_language(where, found, languages).items():
        yield _Tables(
            source=found.name,
            language=language,
            sha256={name: found.sha256[name] for name in names},
            fetch=functools.partial(hub_tables.fetch_tables, where, found, names),
            origin=found.location(names[0]),
        )


def _find_local(where: str, place: Path) -> Iterator[_Tables]:
    for name, files in _find_files(place).items():
        source, _, language = name.rpartition("_")
        if not source or not LANGUAGE_CODE.fullmatch(language):
            raise ConfigError(
                f"{where}: '{name}' does not say in which language its texts are; rename it to "
                f"{name}_CODE, or convert it: python -m data_prep.from_llava ... --language CODE"
            )
        if not FILE_NAME.fullmatch(name):
            raise ConfigError(f"{where}: '{name}': {FILE_NAME_ADVICE}")
        hashes = {path.name: sha256_once(path) for path in files}
        yield _Tables(
            source=source, language=language, sha256=hashes, fetch=functools.partial(list, files)
        )


def _find_files(place: Path) -> Mapping[str, Sequence[Path]]:
    """Return source with its language -> its files."""
    if place.suffix == _PARQUET and place.is_file():
        return {place.stem: [place]}
    if place.is_dir():
        files = sorted(place.glob(f"*{_PARQUET}"))
        return {place.absolute().name: files} if files else {}
    found = sorted(place.parent.glob(f"{place.name}_*{_PARQUET}")) if place.name else []
    return {
        path.stem: [path] for path in found if "_" not in path.stem.removeprefix(f"{place.name}_")
    }


def _convert_once(where: str, tables: _Tables) -> list[Path]:
    content = config.fingerprint([list(pair) for pair in tables.sha256.items()])
    folder = CONVERTED / f"{tables.source}_{tables.language}-{content[:_HASH_DIGITS]}"
    if not (found := _manifests(folder)):
        with sole_writer(folder):
            found = _manifests(folder) or _convert(where, tables, folder)
    return found


def _manifests(folder: Path) -> list[Path]:
    """Return the manifests; none if the conversion was stopped before it wrote its last file."""
    return sorted(folder.glob(f"*{SUFFIX}")) if (folder / CROISSANT_FILE).is_file() else []


def _convert(where: str, tables: _Tables, folder: Path) -> list[Path]:
    # Most runs read shards; the readers of tables take a second to import.
    from data_prep.foreign.conversion import ConversionPlan, convert

    files = tables.fetch()
    _LOG.info("%s: converting %d Parquet files to %s", where, len(files), folder)
    plan = ConversionPlan(
        files=tuple(map(str, files)),
        images=None,
        columns={},
        name=tables.source,
        language=tables.language,
        licence="unknown",
        out=folder,
        per_shard=_PER_SHARD,
        limit=0,
        max_unusable=_MAX_UNUSABLE,
        origin=tables.origin,
    )
    try:
        report = convert(plan, lambda: None)
    except DataError as error:
        raise DataError(
            f"{where}: {error}. To set these, convert the files: python -m data_prep.from_llava "
            f"{tables.origin or files[0]} --language {tables.language}",
            error.fault,
        ) from error
    dropped = report.ledger.dropped
    _LOG.info(
        "%s: %d of %d rows%s",
        *(where, report.ledger.num_out, report.ledger.num_in),
        "".join(f", {count} left out: {reason}" for reason, count in dropped.most_common()),
    )
    return sorted(report.manifests.values())

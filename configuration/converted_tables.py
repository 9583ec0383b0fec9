"""Parquet files as sources of a run, converted to shards once."""

from collections.abc import Mapping, Sequence
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


def convert_tables(where: str, place: Path) -> list[Path]:
    """Return the manifests of the Parquet files at a location; none if it holds no such files.

    A location is a file NAME_LANGUAGE.parquet, a folder NAME_LANGUAGE whose files are one source,
    or FOLDER/NAME for the files FOLDER/NAME_LANGUAGE.parquet. The rows become samples in the order
    of the files' names and of the rows in them, with their images, by `data_prep.foreign`. Files
    with the same contents are converted once, and never again.

    Args:
        where: Setting that names the location, for error messages.
        place: The location.

    Raises:
        ConfigError: If a name has no language, or another command converts the files.
        DataError: If a file is damaged, or more than 1 % of its rows can't be used.
    """
    return [
        manifest
        for name, files in _find_tables(place).items()
        for manifest in _convert_once(where, name, files)
    ]


def _find_tables(place: Path) -> Mapping[str, Sequence[Path]]:
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


def _convert_once(where: str, name: str, files: Sequence[Path]) -> list[Path]:
    source, _, language = name.rpartition("_")
    if not source or not LANGUAGE_CODE.fullmatch(language):
        raise ConfigError(
            f"{where}: '{name}' does not say in which language its texts are; rename it to "
            f"{name}_CODE, or convert it: python -m data_prep.from_llava ... --language CODE"
        )
    if not FILE_NAME.fullmatch(name):
        raise ConfigError(f"{where}: '{name}': {FILE_NAME_ADVICE}")
    content = [[path.name, sha256_once(path)] for path in files]
    folder = CONVERTED / f"{name}-{config.fingerprint(content)[:_HASH_DIGITS]}"
    if not (found := _manifests(folder)):
        with sole_writer(folder):
            found = _manifests(folder) or _convert(where, source, language, files, folder)
    return found


def _manifests(folder: Path) -> list[Path]:
    """Return the manifests; none if the conversion was stopped before it wrote its last file."""
    return sorted(folder.glob(f"*{SUFFIX}")) if (folder / CROISSANT_FILE).is_file() else []


def _convert(
    where: str, source: str, language: str, files: Sequence[Path], folder: Path
) -> list[Path]:
    # Most runs read shards; the readers of tables take a second to import.
    from data_prep.foreign.conversion import ConversionPlan, convert

    _LOG.info("%s: converting %d Parquet files to %s", where, len(files), folder)
    plan = ConversionPlan(
        files=tuple(map(str, files)),
        images=None,
        columns={},
        name=source,
        language=language,
        licence="unknown",
        out=folder,
        per_shard=_PER_SHARD,
        limit=0,
        max_unusable=_MAX_UNUSABLE,
    )
    try:
        report = convert(plan, lambda: None)
    except DataError as error:
        raise DataError(
            f"{where}: {error}. To set these, convert the files: python -m data_prep.from_llava "
            f"{files[0]} --language {language}",
            error.fault,
        ) from error
    dropped = report.ledger.dropped
    _LOG.info(
        "%s: %d of %d rows%s",
        *(where, report.ledger.num_out, report.ledger.num_in),
        "".join(f", {count} left out: {reason}" for reason, count in dropped.most_common()),
    )
    return sorted(report.manifests.values())

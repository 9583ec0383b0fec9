"""Parquet files of a data set on the Hugging Face hub: pinned to a commit, downloaded, hashed."""

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote

from fsspec.utils import glob_translate
from huggingface_hub import HfApi, hf_hub_download

from core.errors import ConfigError, DataError
from core.io.files import atomic_write_text, sha256_once
from core.io.hub import explain_hub_error
from core.io.reading import parse_json, read_text_file
from core.process.log import get_logger

_LOCATION = re.compile(
    r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/\w+/[^/]+|[^/]+))?"
    r"/(?P<pattern>.+\.parquet)"
)
_FORM = "hf://datasets/OWNER/NAME@REVISION/PATH.parquet, whose PATH may have * and **"
_PARTITION = re.compile(r"-\d+-of-\d+$")
"""Number at the end of the name of a file that `datasets` has split."""
_TWO_LETTERS = re.compile(r"[a-z]{2}")
_SHOWN = 10
"""Names of files in an error message."""
_LOG = get_logger("data")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HubTables:
    """Parquet files at a location on the hub, as the first command has found them."""

    repository: str
    """OWNER/NAME."""
    commit: str
    pattern: str
    """Path in the data set, with wildcards."""
    sha256: Mapping[str, str]
    """Path in the data set -> hash of the contents, in the order of the paths."""

    @property
    def name(self) -> str:
        """Name of the data set without its owner."""
        return self.repository.partition("/")[2]

    def location(self, path: str) -> str:
        """Return the location of a path at the commit."""
        return f"hf://datasets/{self.repository}@{self.commit}/{path}"


def find_hub_tables(where: str, place: str, languages: Sequence[str], record: Path) -> HubTables:
    """Return the files at a location on the hub, which are downloaded if there is no record.

    The record keeps commit and hashes, so later commands need no network access and find the same
    files, even where the location names a branch.

    Args:
        where: Setting that names the location, for error messages.
        place: Location in the syntax of `HfFileSystem`, with a revision.
        languages: Codes of the languages of the run.
        record: Record of the location, written after the download.

    Raises:
        ConfigError: If the location is of another form, lacks a revision or has no such files,
            nothing names the language of a file, or the files can't be downloaded.
        DataError: If the record is damaged.
    """
    repository, revision, pattern = _parse_location(where, place)
    if record.is_file():
        return _read_record(record)
    api = HfApi()
    # The error types of the HTTP library differ between versions, so all are caught.
    try:
        commit = str(api.dataset_info(repository, revision=revision).sha)
        listed = api.list_repo_files(repository, repo_type="dataset", revision=commit)
    except Exception as error:
        raise _unavailable(where, repository, revision, error) from error
    is_match = re.compile(glob_translate(pattern)).match
    names = sorted(filter(is_match, listed))
    if not names:
        tables = sorted(name for name in listed if name.endswith(".parquet"))
        raise ConfigError(
            f"{where} has no file '{pattern}'; correct it. The data set has {len(tables)} Parquet "
            f"files: {', '.join(tables[:_SHOWN])}{' ...' if len(tables) > _SHOWN else ''}"
        )
    found = HubTables(
        repository=repository, commit=commit, pattern=pattern, sha256=dict.fromkeys(names, "")
    )
    group_by_language(where, found, languages)  # fails before a download of many hours
    _LOG.info("%s: commit %s, downloading %d files", where, commit, len(names))
    paths = _download(where, found, names)
    hashes = {name: sha256_once(path) for name, path in zip(names, paths, strict=True)}
    found = dataclasses.replace(found, sha256=hashes)
    atomic_write_text(record, json.dumps(dataclasses.asdict(found), indent=1) + "\n")
    return found


def fetch_tables(where: str, tables: HubTables, names: Sequence[str]) -> list[Path]:
    """Return the local paths of some of the files, which are in the cache of the hub or downloaded.

    Raises:
        ConfigError: If a file can't be downloaded.
        DataError: If its contents differ from the record.
    """
    paths = _download(where, tables, names)
    for name, path in zip(names, paths, strict=True):
        if sha256_once(path) != tables.sha256[name]:
            raise DataError(
                f"{where}: {path} differs from what was downloaded first; delete it, and the files "
                "are downloaded again"
            )
    return paths


def group_by_language(
    where: str, tables: HubTables, languages: Iterable[str]
) -> dict[str, list[str]]:
    """Return language -> the files that are in it.

    The innermost part of `NAME/FOLDER/FILE` that is a code, or ends with `_CODE` or `-CODE`, names
    the language of a file. A folder for another language ends the search.

    Args:
        where: Setting that names the location, for error messages.
        tables: The files.
        languages: Codes of the languages of the run.

    Raises:
        ConfigError: If nothing names the language of a file.
    """
    found: dict[str, list[str]] = {}
    codes = set(languages)
    for name in tables.sha256:
        language = _language_of(f"{tables.name}/{name}", codes)
        if not language:
            raise ConfigError(
                f"{where}: '{name}' does not say in which language its texts are: neither file, "
                f"folder nor data set is named CODE or NAME_CODE for {' or '.join(sorted(codes))}. "
                "Convert the files: python -m data_prep.from_llava "
                f"'{tables.location(tables.pattern)}' --language CODE"
            )
        found.setdefault(language, []).append(name)
    return found


def _language_of(path: str, codes: set[str]) -> str:
    """Return the language that a path names; "" if it names none, or another one."""
    for part in reversed(path.removesuffix(".parquet").split("/")):
        stem = _PARTITION.sub("", part)
        named = [code for code in codes if stem == code or stem.endswith((f"_{code}", f"-{code}"))]
        if named or _TWO_LETTERS.fullmatch(stem):
            return max(named, key=len, default="")
    return ""


def _parse_location(where: str, place: str) -> tuple[str, str, str]:
    """Return repository, revision and pattern of a location."""
    match = _LOCATION.fullmatch(place)
    if match is None:
        raise ConfigError(
            f"{where}: expected {_FORM}; convert other files with python -m data_prep.from_llava"
        )
    repository, revision, pattern = match.group("repository", "revision", "pattern")
    if not revision:
        raise ConfigError(
            f"{where}: a data set on the hub needs a revision, because its files may change. Write "
            f"hf://datasets/{repository}@REVISION/{pattern} with a tag or a commit "
            f"(https://huggingface.co/datasets/{repository}/commits/main)"
        )
    return repository, unquote(revision), pattern


def _read_record(record: Path) -> HubTables:
    try:
        raw = parse_json(read_text_file(record))
        return HubTables(**{**raw, "sha256": dict(raw["sha256"])})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{record} is damaged: {error!r}; delete it") from error


def _download(where: str, tables: HubTables, names: Sequence[str]) -> list[Path]:
    repository, commit = tables.repository, tables.commit
    # As above, all errors are caught.
    try:
        return [
            Path(hf_hub_download(repository, name, repo_type="dataset", revision=commit))
            for name in names
        ]
    except Exception as error:
        raise _unavailable(where, repository, commit, error) from error


def _unavailable(where: str, repository: str, revision: str, error: Exception) -> ConfigError:
    fix = (
        "run this command on a machine with network access first, with --dry-run if it trains "
        "(same folder and HF_HOME)"
    )
    why = explain_hub_error(error, repository, revision, kind="dataset", offline_fix=fix)
    return ConfigError(f"{where}: {why}")

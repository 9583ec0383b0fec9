"""Texts in many scripts, on which the tokenizer is trained besides the languages of the corpus.

The names and keywords of all emoji in Unicode CLDR, and help pages where Debian has them. No
language model is trained on these texts. Every tenth document is kept apart, to measure fertility.
"""

from pathlib import Path

from data_prep.embedded.concepts import ANNOTATIONS, DERIVED_ANNOTATIONS
from data_prep.embedded.packages import PackageFolder, read_lock, text_digest
from data_prep.embedded.running_text import LICENCE, read_help_pages
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality

LOCALES = (
    "am", "ar", "bn", "ca", "cy", "el", "es", "fa", "he", "hi", "hy", "ja", "ka", "ko", "ru", "ta",
    "th", "uk", "zh",
)  # fmt: skip
"""Languages of the texts, as CLDR names them."""
HELP_FOLDERS = {"el": "el", "hi": "hi", "ja": "ja", "ko": "ko", "ru": "ru", "zh": "zh-CN"}
"""Language -> its folder in the help package."""

_NAMES_PER_DOCUMENT = 8
_NUM_PARAGRAPHS = 2_000
_MIN_CHARS = 30
_HELD_OUT_EVERY = 10
_SAMPLES_PER_SHARD = 4_000


def write_script_texts(
    packages: PackageFolder, folder: Path, locales: tuple[str, ...] = LOCALES
) -> None:
    """Write `script_{language}` for the tokenizer and `fertility_{language}` for its measurement.

    Raises:
        DataError: If a package is missing or lacks a language.
    """
    for locale in locales:
        documents = [*_name_documents(packages, locale), *_help_documents(packages, locale)]
        held_out = documents[::_HELD_OUT_EVERY]
        trained = [one for number, one in enumerate(documents) if number % _HELD_OUT_EVERY]
        _write(folder, f"script_{locale}", locale, trained)
        _write(folder, f"fertility_{locale}", locale, held_out)


def _name_documents(packages: PackageFolder, locale: str) -> list[str]:
    lines = []
    for package, key in ((ANNOTATIONS, "annotations"), (DERIVED_ANNOTATIONS, "annotationsDerived")):
        raw = packages.npm_json(package, f"{key}/{locale}/annotations.json")
        for entry in raw[key]["annotations"].values():
            if entry.get("tts"):
                lines.append(f"{entry['tts'][0]}: {', '.join(entry.get('default', ()))}")
    starts = range(0, len(lines), _NAMES_PER_DOCUMENT)
    return ["\n".join(lines[start:][:_NAMES_PER_DOCUMENT]) for start in starts]


def _help_documents(packages: PackageFolder, locale: str) -> list[str]:
    if locale not in HELP_FOLDERS:
        return []
    pages = read_help_pages(packages, _help_package(locale), HELP_FOLDERS[locale])
    texts = {text for page in pages.values() for text in page if len(text) >= _MIN_CHARS}
    return sorted(texts, key=text_digest)[:_NUM_PARAGRAPHS]


def _help_package(locale: str) -> str:
    return f"libreoffice-help-{HELP_FOLDERS[locale].lower()}"


def _write(folder: Path, name: str, locale: str, documents: list[str]) -> None:
    prefix = name.replace("_", "-")
    samples = [
        ShardSample(key=f"{prefix}-{number:06d}", content={"text": text})
        for number, text in enumerate(documents)
    ]
    shards = write_shards(folder, prefix, samples, per_shard=_SAMPLES_PER_SHARD)
    has_help = locale in HELP_FOLDERS
    locks = [read_lock()[package] for package in (ANNOTATIONS, DERIVED_ANNOTATIONS)]
    provenance = {
        "packages": {lock.name: {"version": lock.version, "sha256": lock.sha256} for lock in locks},
        "debian_packages": [_help_package(locale)] if has_help else [],
    }
    info = SourceInfo(
        name=name,
        language=locale,
        modality=Modality.TEXT,
        record="text",
        licence=" AND ".join([*([LICENCE] if has_help else []), "Unicode-3.0"]),
        provenance=provenance,
    )
    write_manifest(folder, info, shards)

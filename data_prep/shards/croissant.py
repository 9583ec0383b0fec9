"""Croissant metadata of a folder of sources, for catalogues and loaders of data sets.

The vocabulary is that of ML Commons Croissant 1.0 (docs.mlcommons.org/croissant): the shards with
their hashes, and per source the texts and images in them. Unknown values are left out:
the publisher of a data set adds its address, its creator and its date of publication.
"""

import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.io.files import atomic_write_text
from core.io.reading import read_json_file
from datamodules.shards.manifest import SUFFIX, Manifest, Modality, load_manifest

CROISSANT_FILE = "croissant.json"
UNKNOWN_LICENCE = "unknown"
_CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
_TERMS = (
    "citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format",
    "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
    "references", "regex", "repeated", "replace", "separator", "source", "subField", "transform",
)  # fmt: skip
"""Terms of the vocabulary, which the context maps to its namespace."""
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in _TERMS},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "sc": "https://schema.org/",
}
_MEMBERS = {
    "texts": ("*.json", "application/json", "sc:Text"),
    "images": (("*.jpg", "*.png", "*.webp"), "image/*", "sc:ImageObject"),
}
"""Kind of member of a shard -> its patterns, format and type of data."""
_KEY = r"([^/]+)\.[^.]+$"
"""The key of a sample in the name of a member."""


def published_manifests(folder: Path) -> list[Manifest]:
    """Return the manifests of a folder, by name, without those that its `.gitignore` names.

    Raises:
        DataError: If a manifest is damaged.
    """
    ignored, patterns = folder / ".gitignore", list[str]()
    if ignored.is_file():
        lines = (line.strip() for line in ignored.read_text(encoding="utf-8").splitlines())
        patterns = [line for line in lines if line and not line.startswith("#")]
    return [
        load_manifest(path)
        for path in sorted(folder.glob(f"*{SUFFIX}"))
        if not any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)
    ]


def stated_name(folder: Path) -> str:
    """Return the name of the data set in the metadata of a folder; empty without metadata.

    Raises:
        DataError: If the metadata is damaged.
    """
    path = folder / CROISSANT_FILE
    if not path.is_file():
        return ""
    content = read_json_file(path, fix="delete it; the command writes it again")
    return str(content.get("name", ""))


def write_croissant(folder: Path, name: str) -> Path:
    """Write the metadata of a folder's sources beside their manifests, and return its path.

    Args:
        folder: Folder of the manifests.
        name: Name of the data set.

    Raises:
        DataError: If a manifest is damaged.
    """
    content = describe(published_manifests(folder), name)
    path = folder / CROISSANT_FILE
    atomic_write_text(path, json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    return path


def describe(manifests: Sequence[Manifest], name: str) -> dict[str, Any]:
    """Return the metadata of sources, which may share shards, as a JSON-LD document."""
    shards = {shard.path: shard for manifest in manifests for shard in manifest.shards}
    licences = sorted({manifest.licence for manifest in manifests} - {UNKNOWN_LICENCE})
    languages = sorted({code for one in manifests for code in one.language.split(",")})
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": name,
        "description": "; ".join(
            f"{one.name}: {one.num_samples} samples ({one.modality}, {one.language}, licence: "
            f"{one.licence})"
            for one in manifests
        ),
        **({"license": licences} if licences else {}),
        "inLanguage": languages,
        "distribution": [
            *(
                {
                    "@type": "cr:FileObject",
                    "@id": path,
                    "name": path,
                    "contentUrl": path,
                    "contentSize": f"{shard.num_bytes} B",
                    "encodingFormat": "application/x-tar",
                    "sha256": shard.sha256,
                }
                for path, shard in shards.items()
            ),
            *(_file_set(one, kind) for one in manifests for kind in _kinds(one)),
        ],
        "recordSet": [_record_set(one, kind) for one in manifests for kind in _kinds(one)],
    }


def _kinds(manifest: Manifest) -> list[str]:
    return [kind for kind in _MEMBERS if kind == "texts" or manifest.modality is not Modality.TEXT]


def _file_set(manifest: Manifest, kind: str) -> dict[str, Any]:
    includes, encoding, _ = _MEMBERS[kind]
    return {
        "@type": "cr:FileSet",
        "@id": f"{manifest.name}/{kind}-files",
        "name": f"{manifest.name}/{kind}-files",
        "containedIn": [{"@id": shard.path} for shard in manifest.shards],
        "encodingFormat": encoding,
        "includes": includes if isinstance(includes, str) else list(includes),
    }


def _record_set(manifest: Manifest, kind: str) -> dict[str, Any]:
    name = f"{manifest.name}/{kind}"
    files = {"@id": f"{manifest.name}/{kind}-files"}
    key = {"fileSet": files, "extract": {"fileProperty": "filename"}, "transform": {"regex": _KEY}}
    content = {"fileSet": files, "extract": {"fileProperty": "content"}}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "key": {"@id": f"{name}/key"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{field}",
                "name": f"{name}/{field}",
                "dataType": data_type,
                "source": source,
            }
            for field, data_type, source in (
                ("key", "sc:Text", key),
                ("content", _MEMBERS[kind][2], content),
            )
        ],
    }

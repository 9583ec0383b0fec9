"""Croissant metadata names the shards with their hashes, and the texts and images of each source.

mlcroissant 1.1.1 reads the records of such a folder; it is no dependency, so this checks the shape.
"""

import json
import re
import tarfile
from pathlib import Path

from core.io.files import sha256_file
from data_prep.shards.croissant import CROISSANT_FILE, write_croissant
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality
from tests.support.small_world import image


def write_source(folder: Path, name: str, language: str, *, has_images: bool, licence: str) -> None:
    samples = [
        ShardSample(key=f"{i}", content={"messages": []}, image=image(i) if has_images else None)
        for i in range(3)
    ]
    shards = write_shards(folder, name, samples, per_shard=2)
    modality = Modality.IMAGE_TEXT if has_images else Modality.TEXT
    info = SourceInfo(name=name, language=language, modality=modality, record="", licence=licence,
                      provenance={})  # fmt: skip
    write_manifest(folder, info, shards)


def names_in(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return tar.getnames()


def test_every_file_and_record_of_the_metadata_exists(tmp_path: Path) -> None:
    write_source(tmp_path, "my_eu", "eu", has_images=True, licence="CC-BY-4.0")
    write_source(tmp_path, "my_text_eu", "eu", has_images=False, licence="unknown")
    assert write_croissant(tmp_path, "my") == tmp_path / CROISSANT_FILE
    found = json.loads((tmp_path / CROISSANT_FILE).read_text(encoding="utf-8"))
    assert (found["@type"], found["name"]) == ("sc:Dataset", "my")
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert (found["license"], found["inLanguage"]) == (["CC-BY-4.0"], ["eu"])
    nodes = {node["@id"]: node for node in found["distribution"]}
    shards = [node for node in nodes.values() if node["@type"] == "cr:FileObject"]
    assert len(shards) == 4
    for shard in shards:
        path = tmp_path / shard["contentUrl"]
        assert shard["sha256"] == sha256_file(path)
        assert shard["contentSize"] == f"{path.stat().st_size} B"
    names = ["my_eu/texts", "my_eu/images", "my_text_eu/texts"]
    assert [records["@id"] for records in found["recordSet"]] == names
    for records in found["recordSet"]:
        key, content = records["field"]
        assert records["key"] == {"@id": key["@id"]}
        files = nodes[content["source"]["fileSet"]["@id"]]
        patterns = files["includes"] if isinstance(files["includes"], list) else [files["includes"]]
        members = [
            name
            for shard in files["containedIn"]
            for name in names_in(tmp_path / nodes[shard["@id"]]["contentUrl"])
            if any(Path(name).match(pattern) for pattern in patterns)
        ]
        matches = [re.search(key["source"]["transform"]["regex"], name) for name in members]
        assert [match and match[1] for match in matches] == ["0", "1", "2"]

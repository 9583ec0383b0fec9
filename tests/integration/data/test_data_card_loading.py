"""Hugging Face `datasets` loads every set of shards by its name, with every value unchanged."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from data_prep.shards.folder_metadata import write_metadata
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality
from tests.support.small_world import image

pytestmark = pytest.mark.slow
SHIPPED = Path(__file__).parents[3] / "data" / "embedded"
NUM_SHIPPED = 10
"""Sets of shards; two of them share a shard."""


def samples_of(folder: Path, pattern: str | list[str]) -> dict[str, dict[str, Any]]:
    """Key -> member -> content of all samples."""
    names = [pattern] if isinstance(pattern, str) else pattern
    samples: dict[str, dict[str, Any]] = {}
    for path in (path for name in names for path in sorted(folder.glob(name))):
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, extension = info.name.partition(".")
                file = tar.extractfile(info)
                assert file is not None
                content = file.read()
                value = json.loads(content) if extension == "json" else content
                samples.setdefault(key, {})[extension] = value
    return samples


def without_missing(value: Any) -> Any:
    """Remove fields that are None, which stand for fields that a sample lacks."""
    if isinstance(value, dict):
        return {name: without_missing(one) for name, one in value.items() if one is not None}
    return [without_missing(one) for one in value] if isinstance(value, list) else value


def check_all_load(folder: Path, cache: Path) -> dict[str, int]:
    counts = {}
    for name in datasets.get_dataset_config_names(str(folder)):
        builder = datasets.load_dataset_builder(str(folder), name, cache_dir=str(cache))
        (split, files), = builder.config.data_files.items()  # fmt: skip
        expected: dict[str, dict[str, Any]] = {}
        for file in files:
            expected |= samples_of(folder, Path(file).name)
        loaded = datasets.load_dataset(str(folder), name, split=str(split), cache_dir=str(cache))
        for column, feature in loaded.features.items():
            if isinstance(feature, datasets.Image):
                loaded = loaded.cast_column(column, datasets.Image(decode=False))
        found = {row["__key__"]: without_missing(row) for row in loaded}
        assert found.keys() == expected.keys()
        for key, members in expected.items():
            row = {column: one for column, one in found[key].items() if column[:2] != "__"}
            got = {column: one["bytes"] if column != "json" else one for column, one in row.items()}
            assert got == {column: without_missing(one) for column, one in members.items()}
        counts[name] = len(loaded)
    return counts


def test_every_shipped_shard(tmp_path: Path) -> None:
    counts = check_all_load(SHIPPED, tmp_path)
    assert len(counts) == NUM_SHIPPED
    assert counts["benchmark_test"] == 335
    assert counts["emoji"] == 5 * counts["round"]
    options = datasets.load_dataset(
        str(SHIPPED), "benchmark_test", split="test", cache_dir=str(tmp_path)
    )
    items = [item for sample in options["json"] for item in sample["items"]]
    kinds = {item["benchmark"] for item in items if item["choices"] is not None}
    assert kinds == {"mc"}
    assert all(item["answers"] is None for item in items if item["benchmark"] == "mc")


def test_kinds_of_questions_and_formats_of_images_mixed_in_one_shard(tmp_path: Path) -> None:
    """Without the card, `datasets` infers fields from the first samples and rejects the shard."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "PNG")
    question = {"question_id": "a", "question": {"eu": "Zer da?"}}
    contents = [
        *({"items": [{**question, "answers": {"eu": ["katua"]}}]} for _ in range(150)),
        {"items": [question, {**question, "choices": {"eu": ["a", "b"]}, "correct_choice": 1}]},
        {"items": [{**question, "answers": {"eu": []}}], "note": None},
    ]
    samples = [
        ShardSample(key=f"{i:03d}", content=one, image=[image(i), buffer.getvalue(), None][i % 3])
        for i, one in enumerate(contents)
    ]
    folder = tmp_path / "mine"
    folder.mkdir()
    shards = write_shards(folder, "mine", samples, per_shard=100)
    info = SourceInfo(name="mine", language="eu", modality=Modality.BENCHMARK, record="items",
                      licence="CC-BY-4.0", provenance={})  # fmt: skip
    write_manifest(folder, info, shards)
    with pytest.raises((ValueError, datasets.exceptions.DatasetGenerationError)):
        datasets.load_dataset(
            "webdataset", data_files=str(folder / "*.tar"), cache_dir=str(tmp_path / "inferred")
        )
    write_metadata(folder, "mine")
    assert check_all_load(folder, tmp_path / "cache") == {"mine": 152}
    loaded = datasets.load_dataset(str(folder), "mine", split="test", cache_dir=str(tmp_path / "c"))
    assert [loaded[i]["webp"] is None for i in range(3)] == [False, True, True]
    assert loaded[1]["png"].size == (8, 8)

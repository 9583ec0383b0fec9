"""The data card of a folder: its header for Hugging Face `datasets`, and what keeps it honest."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from core.errors import DataError
from data_prep.card import main
from data_prep.shards.data_card import CARD_NAME, write_card
from data_prep.shards.features import find_features
from data_prep.shards.folder_metadata import write_metadata
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality
from tests.support.small_world import image

SHIPPED = Path(__file__).parents[3] / "data" / "embedded"


def write_source(
    folder: Path,
    name: str,
    contents: list[dict[str, Any]],
    *,
    licence: str = "CC-BY-4.0",
    modality: Modality = Modality.TEXT,
) -> None:
    shown = None if modality is Modality.TEXT else image(1)
    samples = [
        ShardSample(key=f"{number}", content=content, image=shown)
        for number, content in enumerate(contents)
    ]
    shards = write_shards(folder, name, samples, per_shard=2)
    info = SourceInfo(name=name, language="eu", modality=modality, record="text", licence=licence,
                      provenance={})  # fmt: skip
    write_manifest(folder, info, shards)


def header(folder: Path) -> dict[str, Any]:
    _, content, _ = (folder / CARD_NAME).read_text(encoding="utf-8").split("---\n", 2)
    found = yaml.safe_load(content)
    assert isinstance(found, dict)
    return found


def features_of(tmp_path: Path, *contents: Mapping[str, Any]) -> Any:
    write_source(tmp_path, "one_eu", [dict(content) for content in contents])
    found = find_features(sorted(tmp_path.glob("*.tar")))
    return datasets.Features._from_yaml_list(found)["json"]


def test_fields_of_all_samples_are_merged(tmp_path: Path) -> None:
    """Keys such as `no` are booleans in YAML 1.1, and a later sample may have further fields."""
    value, many = datasets.Value, datasets.List
    found = features_of(
        tmp_path,
        {"no": "a", "scores": [], "nested": [[1], []], "empty": None, "half": 1, "flag": True},
        {"scores": [1, 2.5], "items": [{"id": "x"}, {"choices": {"eu": ["bai"]}}], "half": 0.5},
    )
    assert found == {
        "id": value("string"),
        "no": value("string"),
        "scores": many(value("float64")),
        "nested": many(many(value("int64"))),
        "empty": value("null"),
        "half": value("float64"),
        "flag": value("bool"),
        "items": many({"id": value("string"), "choices": {"eu": many(value("string"))}}),
    }


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (({"a": "x"}, {"a": 1}), "json, a: string in one sample, int64 in another"),
        (({"a": [1]}, {"a": {"b": 1}}), "json, a: list in one sample, struct in another"),
        (({"a": {}},), "0.json, a: an object without fields"),
        (({"a": 1 << 63},), "has more than 64 bits"),
    ],
)
def test_a_source_that_datasets_cannot_hold_is_named_with_the_reason(
    tmp_path: Path, contents: tuple[dict[str, Any], ...], reason: str
) -> None:
    write_source(tmp_path, "good_eu", [{"text": "bai"}])
    write_source(tmp_path, "bad_eu", list(contents))
    card = write_card(tmp_path).read_text(encoding="utf-8")
    assert [one["config_name"] for one in header(tmp_path)["configs"]] == ["good_eu"]
    assert "Not loaded by `datasets`: bad_eu: `json.text` (" in card
    assert reason in card


def test_a_set_of_shards_is_one_configuration_whose_files_are_exactly_its_shards(
    tmp_path: Path,
) -> None:
    contents = [{"text": "a"}, {"text": "b"}, {"text": "c"}]
    write_source(tmp_path, "talk_en", contents, modality=Modality.IMAGE_TEXT)
    manifest = json.loads((tmp_path / "talk_en.manifest.json").read_text(encoding="utf-8"))
    other = json.dumps(manifest | {"name": "talk_eu"})
    (tmp_path / "talk_eu.manifest.json").write_text(other, encoding="utf-8")
    write_card(tmp_path)
    files = [one["data_files"] for one in header(tmp_path)["configs"]]
    assert files == [[{"split": "train", "path": "talk_en-00000*.tar"}]]
    assert header(tmp_path)["configs"][0]["config_name"] == "talk"
    # Another file that the pattern would match is no shard of the source.
    (tmp_path / "talk_en-000009.tar").write_bytes(b"")
    write_card(tmp_path)
    names = ["talk_en-000000.tar", "talk_en-000001.tar"]
    assert header(tmp_path)["configs"][0]["data_files"] == [{"split": "train", "path": names}]


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (("CC-BY-4.0", "CC-BY-4.0"), "cc-by-4.0"),
        (("Apache-2.0", "CC-BY-4.0"), ["apache-2.0", "cc-by-4.0"]),
        (("CC-BY-4.0 AND Unicode-3.0", "CC-BY-4.0"), "other"),
        (("unknown", "unknown"), "unknown"),
        (("unknown", "CC-BY-4.0"), "other"),
    ],
)
def test_the_licence_is_one_that_the_hub_knows_or_other(
    tmp_path: Path, licences: tuple[str, str], expected: str | list[str]
) -> None:
    for name, licence in zip(("a_eu", "b_eu"), licences, strict=True):
        write_source(tmp_path, name, [{"text": "bai"}], licence=licence)
    card = write_card(tmp_path).read_text(encoding="utf-8")
    assert header(tmp_path)["license"] == expected
    assert all(licence in card for licence in licences)


def test_a_card_of_the_user_is_never_overwritten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(tmp_path, "a_eu", [{"text": "bai"}])
    (tmp_path / CARD_NAME).write_text("mine", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        write_metadata(tmp_path, "a")
    assert "stays as it is" in caplog.text
    assert main([str(tmp_path)]) == 2
    assert "is not overwritten" in capsys.readouterr().err
    assert (tmp_path / CARD_NAME).read_text(encoding="utf-8") == "mine"
    assert (tmp_path / "croissant.json").is_file()


def test_sources_that_the_folder_ignores_are_in_neither_file(tmp_path: Path) -> None:
    """`data_prep.photographs` writes into the shipped folder what is not shipped."""
    write_source(tmp_path, "a_eu", [{"text": "bai"}])
    write_metadata(tmp_path, "a")
    files = [tmp_path / CARD_NAME, tmp_path / "croissant.json"]
    before = [path.read_bytes() for path in files]
    (tmp_path / ".gitignore").write_text("# not shipped\nphotos.*\n\n", encoding="utf-8")
    write_source(tmp_path, "photos", [{"text": "bai"}])
    write_metadata(tmp_path, "a")
    assert [path.read_bytes() for path in files] == before


def test_a_folder_keeps_its_name_when_a_source_is_added(tmp_path: Path) -> None:
    write_source(tmp_path, "a_eu", [{"text": "bai"}])
    write_metadata(tmp_path, "first")
    write_source(tmp_path, "b_eu", [{"text": "ez"}])
    write_metadata(tmp_path, "second")
    assert "\n# first\n" in write_card(tmp_path).read_text(encoding="utf-8")
    found = json.loads((tmp_path / "croissant.json").read_text(encoding="utf-8"))
    assert found["name"] == "first"
    assert [one["config_name"] for one in header(tmp_path)["configs"]] == ["a_eu", "b_eu"]


def test_a_damaged_shard_is_an_error(tmp_path: Path) -> None:
    write_source(tmp_path, "a_eu", [{"text": "bai"}])
    (tmp_path / "a_eu-000000.tar").write_bytes(b"x" * 600)
    with pytest.raises(DataError, match="can't be read"):
        write_card(tmp_path)


def test_the_shipped_metadata_describes_the_shipped_shards(tmp_path: Path) -> None:
    folder = tmp_path / SHIPPED.name
    folder.mkdir()
    for path in (*SHIPPED.glob("*.tar"), *SHIPPED.glob("*.manifest.json")):
        (folder / path.name).symlink_to(path)
    (folder / ".gitignore").write_bytes((SHIPPED / ".gitignore").read_bytes())
    write_metadata(folder, "embedded")
    for name in (CARD_NAME, "croissant.json"):
        assert (folder / name).read_bytes() == (SHIPPED / name).read_bytes()

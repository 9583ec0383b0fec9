"""Parquet files in place of a source: converted once, in the order of the rows."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configuration.converted_tables import CONVERTED
from configuration.mixture_lines import MixtureLineConfig
from configuration.run_config import RunConfig
from configuration.source_places import line_manifests
from core.config import load_config
from core.errors import ConfigError, DataError
from datamodules.shards.manifest import load_manifest
from datamodules.shards.source import Source
from tests.support.small_world import image

CONFIG = """
backbones: {general: {path: lm}}
cell: {text_only: true, target_share: 0.4}
data: {folder: data}
align: {optim: {lr: 0.1}}
instruct:
  optim: {lr: 0.1}
  num_steps: 100
  visual: {talk: {source: photos, samples_per_step: 10}}
"""


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)


def talk(place: str) -> Any:
    config = load_config(RunConfig, Path("run.yaml"), overrides=[f"data.sources.talk={place}"])
    line: MixtureLineConfig = config.instruct.visual["talk"]
    return line_manifests(config, "talk", line, has_images=True)


def conversation(number: int) -> dict[str, Any]:
    """Return a row as `datasets` stores a conversation with an image."""
    turns = [("user", f"<image>\nZer da {number}?"), ("assistant", f"etxe {number}")]
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"messages": messages, "images": [{"bytes": image(number), "path": None}]}


def write(path: str, rows: list[dict[str, Any]]) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return Path(path)


def answers(manifest: str) -> list[str]:
    source = Source(Path(manifest))
    return [source.read(i, with_image=True).turns[-1].content for i in range(len(source))]


def test_a_folder_of_parquet_files_is_one_source_in_the_order_of_its_rows() -> None:
    for part in range(2):
        rows = [conversation(10 * part + i) for i in range(3)]
        write(f"my/talks_eu/train-0000{part}-of-00002.parquet", rows)
    found = talk("my/talks_eu")
    assert found.base == ""
    assert answers(found.target) == [f"etxe {n}" for n in (0, 1, 2, 10, 11, 12)]
    manifest = load_manifest(Path(found.target))
    assert (manifest.name, manifest.language) == ("talks_eu", "eu")
    written = Path(found.target).stat().st_mtime_ns
    assert talk("my/talks_eu") == found
    assert Path(found.target).stat().st_mtime_ns == written, "it is converted once"
    write("my/talks_eu/train-00001-of-00002.parquet", [conversation(7)])
    assert talk("my/talks_eu").target != found.target
    assert len(list(CONVERTED.glob("talks_eu-*/talks_eu.manifest.json"))) == 2


def test_captions_in_two_languages_are_a_pair() -> None:
    for language, caption in (("en", "a house"), ("eu", "etxe bat")):
        row = {"image": {"bytes": image(1), "path": "1.jpg"}, "caption": caption}
        write(f"my/photos_{language}.parquet", [row])
    found = talk("my/photos")
    assert (answers(found.base), answers(found.target)) == (["a house"], ["etxe bat"])
    alone = talk("my/photos_eu.parquet")
    assert (alone.base, alone.target) == ("", found.target)


def test_an_interrupted_conversion_begins_again() -> None:
    write("my_eu.parquet", [conversation(1)])
    found = Path(talk("my_eu.parquet").target)
    found.unlink()
    assert talk("my_eu.parquet").target == str(found)
    assert answers(str(found)) == ["etxe 1"]


def test_names_without_a_language_and_images_outside_are_refused() -> None:
    write("my.parquet", [conversation(1)])
    with pytest.raises(ConfigError, match=r"talk=my.parquet: 'my' does not say .* rename it to"):
        talk("my.parquet")
    write("my_eu.parquet", [{"image": {"bytes": None, "path": "a.jpg"}, "caption": "etxe bat"}])
    with pytest.raises(DataError, match=r"image is a path.* python -m data_prep.from_llava my_eu"):
        talk("my_eu.parquet")
    Path("empty").mkdir()
    with pytest.raises(ConfigError, match="has no manifest of image-text data"):
        talk("empty")


def test_a_conversion_that_was_stopped_is_repeated() -> None:
    """Stopped between the manifests of images and of texts, it would have lost the texts."""
    text = conversation(2)
    text["messages"][0]["content"], text["images"] = "Zer da 2?", []
    write("photos_eu.parquet", [conversation(1), text])
    folder = Path(talk("photos_eu.parquet").target).parent
    manifests = sorted(folder.glob("*.manifest.json"))
    assert len(manifests) == 2
    (folder / "croissant.json").unlink()
    next(path for path in manifests if "text" in path.name).unlink()
    assert answers(talk("photos_eu.parquet").target) == ["etxe 1"]
    assert sorted(folder.glob("*.manifest.json")) == manifests

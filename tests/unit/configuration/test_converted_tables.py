"""Parquet files in place of a source: converted once, in the order of the rows."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from configuration.converted_tables import CONVERTED
from configuration.mixture_lines import MixtureLineConfig
from configuration.run_config import RunConfig
from configuration.source_places import line_manifests
from core.config import load_config
from core.errors import ConfigError, DataError
from data_prep.foreign.hub_tables import HubTables, group_by_language
from datamodules.shards.manifest import load_manifest
from datamodules.shards.source import Source
from tests.support import prepare_world
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


# --- the hub --------------------------------------------------------------------------------------

DATA_SET = f"hf://datasets/{prepare_world.HUB_NAME}"
PAIR = f"{DATA_SET}@v1/**/train-*.parquet"
COMMIT = prepare_world.HUB_COMMIT


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A data set in two languages, as `datasets` writes it, with files that are not data."""
    files = {"README.md": b"x", "name.py": b"raise SystemExit", "test.parquet": b"x"}
    for name, numbers in (("en/train-00000-of-00001", range(3)),
                          ("eu/train-00000-of-00002", range(2)),
                          ("eu/train-00001-of-00002", range(2, 3))):  # fmt: skip
        path = write("written.parquet", [conversation(number) for number in numbers])
        files[f"{name}.parquet"] = path.read_bytes()
    with prepare_world.hub(files) as server:
        use_hub(monkeypatch, server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret0000")
        yield server


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_files_on_the_hub_are_downloaded_and_converted_once(
    hub: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = talk(PAIR)
    assert answers(found.base) == answers(found.target) == ["etxe 0", "etxe 1", "etxe 2"]
    manifest = load_manifest(Path(found.target))
    assert (manifest.name, manifest.language) == ("name_eu", "eu")
    first = f"{DATA_SET}@{COMMIT}/eu/train-00000-of-00002.parquet"
    assert manifest.provenance["origin"] == first
    downloaded = {path.rpartition("/")[2] for path in hub.asked if "/resolve/" in path}
    assert len(downloaded) == 3
    assert all(name.startswith("train-") for name in downloaded), "no other file is requested"
    (record,) = CONVERTED.glob("hub-*.json")
    assert "hf_secret" not in record.read_text() + caplog.text

    go_offline(monkeypatch)
    hub.asked.clear()
    assert talk(PAIR) == found
    folder = Path(found.target).parent
    shutil.rmtree(folder)
    assert talk(PAIR) == found, "the files are in the cache"
    assert not hub.asked
    shutil.rmtree(folder)
    blobs = list(Path(constants.HF_HUB_CACHE).glob("**/blobs/*"))
    for blob in blobs:
        blob.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"00000-of-00002.parquet differs from .* delete it"):
        talk(PAIR)
    shutil.rmtree(constants.HF_HUB_CACHE)
    with pytest.raises(ConfigError, match=r"talk=hf://.*HF_HUB_OFFLINE is set; run this command"):
        talk(PAIR)
    record.write_text("[")
    with pytest.raises(DataError, match=rf"{record} is damaged.*delete it"):
        talk(PAIR)


def test_other_contents_at_the_same_place_are_another_source(hub: Any) -> None:
    found = talk(f"{DATA_SET}@v1/eu/*.parquet")
    assert found.base == ""
    hub.files["eu/train-00001-of-00002.parquet"] = write(
        "w.parquet", [conversation(7)]
    ).read_bytes()
    shutil.rmtree(constants.HF_HUB_CACHE)
    assert talk(f"{DATA_SET}@v1/eu/*.parquet") == found, "the first command decides"
    changed = talk(f"{DATA_SET}@v2/eu/*.parquet").target
    assert changed != found.target
    assert answers(changed) == ["etxe 0", "etxe 1", "etxe 7"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (
            f"{DATA_SET}/eu/*.parquet",
            rf"needs a revision.* Write {DATA_SET}@REVISION/eu/\*.parquet",
        ),
        (f"{DATA_SET}@v1/eu/*.json", r"expected hf://datasets/OWNER/NAME@REVISION/PATH.parquet"),
        ("s3://bucket/a_eu.parquet", r"expected hf://datasets/.*data_prep.from_llava"),
        (f"{DATA_SET}@v1/*/a.parquet", r"no file '\*/a.parquet'; .* 4 Parquet files: en/train"),
        (f"{DATA_SET}@v1/*.parquet", rf"'test.parquet' does not say .*{COMMIT}/\*.parquet' --lang"),
        ("hf://datasets/owner/other@v1/a.parquet", r"datasets/owner/other does not exist, or is"),
    ],
)
def test_unusable_places_on_the_hub_are_refused(hub: Any, place: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data.sources.talk={re.escape(place)}.*{message}"):
        talk(place)


def test_without_network_access_the_fix_is_named(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_hub(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"the hub can't be reached; run this .*with --dry-run"):
        talk(PAIR)
    go_offline(monkeypatch)
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE is set; run this .* \(same folder"):
        talk(PAIR)
    assert not list(CONVERTED.glob("*"))


@pytest.mark.parametrize(
    ("path", "language"),
    [("talks/eu.parquet", "eu"), ("talks/train_eu-00000-of-00002.parquet", "eu"),
     ("talks-eu/data/train.parquet", "eu"), ("talks_eu/en/a.parquet", "en"),
     ("talks/data/zh-Hant/a.parquet", "zh-Hant"),
     ("talks_eu/cy/a.parquet", ""), ("talks/museu.parquet", "")],
)  # fmt: skip
def test_the_language_is_that_of_the_innermost_name(path: str, language: str) -> None:
    name, _, file = path.partition("/")
    tables = HubTables(repository=f"me/{name}", commit="c", pattern=file, sha256={file: "0"})
    if language:
        assert group_by_language("x", tables, ("en", "eu", "zh-Hant")) == {language: [file]}
    else:
        with pytest.raises(ConfigError, match=r"for en or eu\. Convert"):
            group_by_language("x", tables, ("eu", "en"))

"""Several data folders, absolute names, replaced sources, and languages that are not used."""

from pathlib import Path

import pytest

from configuration.mixture import image_manifests, single_language_notes
from configuration.run_config import RunConfig
from configuration.source_places import manifest_path
from core.config import load_config
from core.errors import ConfigError
from datamodules.mixture.config import ComponentConfig
from datamodules.shards.manifest import Modality
from pipeline.stages.instruct import InstructStage
from tests.support.doubles import write_shard, write_source

CONFIG = """
backbones: {general: {path: lm}}
cell: {text_only: true, target_share: 0.4}
data: {folder: data}
align: {optim: {lr: 0.1}}
instruct:
  optim: {lr: 0.1}
  num_steps: 100
  visual: {talk: {source: photos, samples_per_step: 10}}
  text_only: {chat: {source: chat, samples_per_step: 3}}
"""


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(CONFIG)
    return tmp_path


def load(*overrides: str) -> RunConfig:
    return load_config(RunConfig, Path("run.yaml"), overrides=overrides)


def components(*overrides: str) -> dict[str, ComponentConfig]:
    return InstructStage.from_config(load(*overrides)).stream.mixture.components


def write(folder: str, name: str, language: str, *, has_images: bool = True) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    shard = write_shard(Path(folder) / f"{name}_{language}.tar", [("a", {}, b"x")])
    modality = Modality.IMAGE_TEXT if has_images else Modality.TEXT
    write_source(
        Path(folder), f"{name}_{language}", [shard], language=language, modality=modality, record=""
    )


def test_a_manifest_is_looked_for_in_every_data_folder() -> None:
    write("data", "photos", "en")
    write("mine", "photos", "en")
    write("mine", "photos", "eu")
    config = load("data.folders=[other,mine]")
    assert manifest_path(config, "photos_en") == "data/photos_en.manifest.json"
    assert manifest_path(config, "photos_eu") == "mine/photos_eu.manifest.json"
    assert manifest_path(config, "absent_eu") == "data/absent_eu.manifest.json"
    assert manifest_path(config, "/abs/x_eu") == "/abs/x_eu.manifest.json"


def test_an_absolute_source_is_taken_as_it_is(world: Path) -> None:
    talk = components(f"instruct.visual.talk.source={world}/mine/p")["talk"]
    assert (talk.base, talk.target) == (
        f"{world}/mine/p_en.manifest.json",
        f"{world}/mine/p_eu.manifest.json",
    )


@pytest.mark.parametrize("place", ["mine", "mine/p", "mine/p_eu.manifest.json"])
@pytest.mark.parametrize("name", ["talk", "photos"])
def test_a_source_in_one_language_is_served_in_it(place: str, name: str) -> None:
    write("mine", "p", "eu")
    write("mine", "p_text", "eu", has_images=False)
    override = f"data.sources.{name}={place}"
    talk = components(override)["talk"]
    assert (talk.base, talk.target, talk.target_share) == ("mine/p_eu.manifest.json", "", 0.0)
    assert image_manifests(load(override)) == ["mine/p_eu.manifest.json"]
    (note,) = single_language_notes([load(override)])
    assert "mine/p_eu.manifest.json has no parallel source" in note


def test_a_parallel_source_keeps_its_share_and_text_goes_to_text_lines() -> None:
    for language in ("en", "eu"):
        write("mine", "p", language)
    write("mine", "p_text", "eu", has_images=False)
    overrides = ("data.sources.talk=mine", "data.sources.chat=mine")
    parts = components(*overrides)
    assert parts["talk"].target_share == 0.4
    assert parts["talk"].used_manifests() == ["mine/p_en.manifest.json", "mine/p_eu.manifest.json"]
    assert parts["chat"].base == "mine/p_text_eu.manifest.json"
    assert single_language_notes([load(*overrides)]) == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.sources.tlak=mine",
            "unknown mixture line or source .* 'tlak'.* Did you mean 'talk'",
        ),
        ("data.sources.talk=absent", "talk=absent has no manifest of image-text data.*from_llava"),
        ("data.sources.talk=mine", "has 2 sources of image-text data: p, q; give FOLDER/NAME"),
        ("data.sources.talk=mine/q", "is in cy, but the languages of the run are en and eu"),
        ("data.sources.chat=mine", "chat=mine has no manifest of text data"),
    ],
)
def test_unclear_locations_are_errors(override: str, message: str) -> None:
    write("mine", "p", "eu")
    write("mine", "q", "cy")
    with pytest.raises(ConfigError, match=message):
        components(override)


@pytest.mark.parametrize(("share", "used", "absent"), [("0", "en", "eu"), ("1", "eu", "en")])
def test_a_language_that_is_not_used_need_not_exist(share: str, used: str, absent: str) -> None:
    """If it exists, or both are still expected, addresses stay what they were."""
    both = {"data/photos_en.manifest.json", "data/photos_eu.manifest.json"}
    override = f"cell.target_share={share}"
    before = components(override)["talk"]
    assert {before.base, before.target} == both
    write("data", "photos", used)
    talk = components(override)["talk"]
    assert (talk.base, talk.target) == (f"data/photos_{used}.manifest.json", "")
    assert image_manifests(load(override)) == [f"data/photos_{used}.manifest.json"]
    write("data", "photos", absent)
    assert components(override)["talk"] == before
    used_by_both = components("cell.target_share=0.4")["talk"]
    assert {used_by_both.base, used_by_both.target} == both

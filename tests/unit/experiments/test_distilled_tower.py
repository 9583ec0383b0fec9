"""The recipe of the distilled tower: its drawings, its address, and the folder of its result."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.io.sealed_folder import SEAL_FILE, seal_folder
from experiments.grids import distilled_tower as recipe
from pipeline.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
DRAWINGS = "data/embedded/round_caption_en.manifest.json"


@pytest.fixture(autouse=True)
def in_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_missing_drawings_name_the_command_that_builds_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"data_prep.tower_drawings --out {tmp_path}"):
        recipe.load([f"drawings=[{tmp_path}/drawings.manifest.json]"])


@pytest.mark.slow
def test_the_address_depends_on_drawings_and_recipe_not_on_the_folder(tmp_path: Path) -> None:
    def address(*overrides: str) -> str:
        graph = recipe.build_graph(recipe.load([f"drawings=[{DRAWINGS}]", *overrides]))
        (node,) = graph.nodes.values()
        assert {DRAWINGS, "data/embedded/models/tower/model.safetensors"} < set(node.content)
        return node.address

    plain = address()
    assert address(f"models={tmp_path}", "trainer.checkpoint_every_n_steps=9") == plain
    assert address("recipe.num_steps=9") != plain
    assert address("recipe.shape.width=96") != plain


def test_a_finished_tower_is_copied_without_its_seal(tmp_path: Path) -> None:
    config = recipe.load([f"drawings=[{DRAWINGS}]", f"models={tmp_path}/models"])
    graph, store = recipe.build_graph(config), Store(tmp_path / "root")
    assert not recipe.publish(config, graph, store).exists()
    (node,) = graph.nodes.values()
    folder = store.folder(node.kind, node.address)
    folder.result.mkdir(parents=True)
    (folder.result / "config.json").write_text("{}")
    seal_folder(folder.result)
    assert (folder.result / SEAL_FILE).is_file()
    found = recipe.publish(config, graph, store)
    assert found == tmp_path / "models/tower_vit"
    assert [path.name for path in found.iterdir()] == ["config.json"]

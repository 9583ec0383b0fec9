"""The recipe of the embedded language models: three levels of knowledge, in order."""

import dataclasses
from pathlib import Path

import pytest

from configuration.grid_request import GridRequest
from core.config import load_config
from core.errors import ConfigError
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import SUFFIX, Modality
from experiments.grids import embedded_backbones as recipe
from experiments.run_steps.planning import make_plan
from pipeline.graph import Graph

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus with one document per source, and the recipe next to it."""
    folder = tmp_path / "corpus"
    config = load_config(recipe.BackbonesConfig, ROOT / recipe.CONFIG)
    codes = ("en", "eu")
    kinds = ("corpus_text", "corpus_chat", "corpus_listing", "corpus_yes_no")
    names = [f"{kind}_{code}" for kind in kinds for code in codes]
    folder.mkdir()
    for name in [*names, *(f"script_{code}" for code in config.scripts)]:
        samples = [ShardSample(key=name, content={"text": f"a text of {name}"})]
        shards = write_shards(folder, name, samples, per_shard=1)
        info = SourceInfo(
            name=name, language=name.rsplit("_", 1)[1], modality=Modality.TEXT, record="text",
            licence="none", provenance={"made": "here"},
        )  # fmt: skip
        write_manifest(folder, info, shards)
    monkeypatch.chdir(ROOT)
    return folder


def graph_of(corpus: Path, *overrides: str) -> Graph:
    place = [f"corpus={corpus}", f"models={corpus}/models"]
    return recipe.build_graph(recipe.load([*place, *overrides]))


def sources(graph: Graph, title: str) -> set[str]:
    node = next(node for node in graph.nodes.values() if node.title == title)
    files = [Path(path).name for path in node.content]
    return {name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)}


def test_a_model_that_knows_only_the_base_language_reads_nothing_else(corpus: Path) -> None:
    graph = graph_of(corpus)
    kinds = ("corpus_text", "corpus_chat", "corpus_listing")
    assert sources(graph, "pretrain base_only") == {f"{kind}_en" for kind in kinds}
    target = {f"{kind}_eu" for kind in (*kinds, "corpus_yes_no")}
    assert target <= sources(graph, "pretrain general")
    assert target <= sources(graph, "pretrain adapted")


def test_the_adapted_model_continues_the_general_one(corpus: Path) -> None:
    nodes = {node.title: node for node in graph_of(corpus).nodes.values()}
    assert nodes["pretrain adapted"].inputs["init"] is nodes["pretrain general"]
    assert [title for title in nodes if title.startswith("pretrain")] == [
        "pretrain base_only", "pretrain general", "pretrain adapted",
    ]  # fmt: skip


def test_every_step_has_a_whole_number_of_samples() -> None:
    config = load_config(recipe.BackbonesConfig, ROOT / recipe.CONFIG)
    for part in (config.base_only, config.general, config.adapted):
        assert sum(part.samples_per_step.values()).is_integer()


def test_the_tokenizer_reads_every_script(corpus: Path) -> None:
    config = load_config(recipe.BackbonesConfig, ROOT / recipe.CONFIG)
    assert {"el", "ka", "ru", "hi", "ja", "zh", "ar"} <= set(config.scripts)
    scripts = {f"script_{code}" for code in config.scripts}
    assert scripts <= sources(graph_of(corpus), "tokenizer")


def test_contradicting_recipes_are_rejected(corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"base_only.*'corpus_text_eu'.* the base language only"):
        graph_of(corpus, "base_only.samples_per_step={corpus_text_eu: 1}")
    with pytest.raises(ConfigError, match=r"general.continues='adapted', expected .* base_only"):
        graph_of(corpus, "general.continues=adapted")


def test_stage_runs_are_selected_by_title_with_what_they_read(corpus: Path) -> None:
    graph = graph_of(corpus)
    titles = [node.title for node in graph.only_titled(["adapted"]).nodes.values()]
    assert titles[0] == "tokenizer"
    assert titles[-2:] == ["pretrain general", "pretrain adapted"]
    assert "tower" not in " ".join(titles)
    assert not graph.only_titled(["nothing"]).nodes


def test_a_selection_without_any_stage_run_is_an_error(corpus: Path) -> None:
    place = (f"corpus={corpus}", f"models={corpus}/models")
    request = GridRequest(experiment="embedded_backbones", overrides=place, only=("adapted",))
    assert "tower" not in {node.title for node in make_plan(request).graph.nodes.values()}
    with pytest.raises(ConfigError, match=r"--only nothing: .* titles: pretrain adapted"):
        make_plan(dataclasses.replace(request, only=("nothing",)))

"""The stage graph of the real profile: shared stages, addresses and all plans."""

import ast
import dataclasses
import json
import re
from pathlib import Path

import pytest

import configuration.run_config
import experiments.grids.distilled_tower
import experiments.grids.embedded_backbones
from configuration.axes import name_cells
from configuration.run_config import RunConfig
from core.config import dump_config, load_config
from core.errors import ConfigError
from experiments import run
from experiments.registry import (
    experiment_names,
    get_experiment,
    is_grid,
    questions,
    select,
    with_seeds,
)
from pipeline.graph import Graph, StageNode, build_graph
from pipeline.stages.registry import stage_kinds
from tests.support import small_world as worlds

CELL_IDS = [
    f"general_share{share}{text}_s0" for text in ("", "_txt") for share in (0, 20, 40, 60, 80, 100)
]
GRIDS = [
    name
    for name in experiment_names()
    if is_grid(get_experiment(name))
    and not {"PROFILE", "NEEDED_FIELD"} & vars(get_experiment(name)).keys()
]
"""Experiments that the default profile can plan without further settings."""
TRAINED = ("align", "instruct")


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return worlds.build_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def world(small_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(small_world)
    return small_world


def load(*overrides: str) -> RunConfig:
    return load_config(RunConfig, Path("configs") / f"{worlds.PROFILE}.yaml", overrides=overrides)


def graph_of(experiment: str, *overrides: str) -> Graph:
    return build_graph(name_cells(get_experiment(experiment).cells(load(*overrides))))


def nodes_of(graph: Graph, kind: str) -> list[StageNode]:
    return [node for node in graph.nodes.values() if node.kind is kind]


def addresses(*overrides: str) -> dict[str, str]:
    """Return the address of every stage of one cell."""
    graph = build_graph(name_cells([load(*overrides)]))
    return {node.kind: address for address, node in graph.nodes.items()}


def test_the_cells_of_the_main_grid(world: Path) -> None:
    """Reports of earlier runs refer to cells by these ids."""
    assert CELL_IDS[:2] == ["general_share0_s0", "general_share20_s0"]
    assert CELL_IDS[-1] == "general_share100_txt_s0"
    assert list(graph_of("mix_ablation").cells) == CELL_IDS


def test_twelve_cells_share_stage_one(world: Path) -> None:
    graph = graph_of("mix_ablation")
    counts = {kind: len(nodes_of(graph, kind)) for kind in stage_kinds()}
    assert counts["features"] == counts["align"] == 1
    assert counts["instruct"] == counts["evaluate"] == 12
    (align,) = nodes_of(graph, "align")
    assert graph.cells_of(align.address) == CELL_IDS


@pytest.mark.slow
def test_out_of_domain_benchmarks_are_stages_of_their_own_where_they_exist(world: Path) -> None:
    """Their presence changes the address of no other stage."""
    plain, named = addresses(), "data.out_of_domain=[photos]"
    assert addresses(named) == plain
    original = json.loads(Path("data/benchmark_test.manifest.json").read_text())
    path = Path("data/photos.manifest.json")
    path.write_text(json.dumps(original | {"name": "photos"}))
    try:
        graph = build_graph(name_cells([load(named)]))
        assert addresses() == plain
        without_cache = addresses(named, "model.cache_features=false")
        with pytest.raises(ConfigError, match="name a benchmark twice"):
            load("data.out_of_domain=[benchmark_test]")
        path.write_text(json.dumps(original | {"name": "photos", "language": "en"}))
        with pytest.raises(ConfigError, match="language of benchmark 'photos' 'eu'"):
            build_graph(name_cells([load(named)]))
    finally:
        path.unlink()
    found = {node.kind: address for address, node in graph.nodes.items()}
    assert found.items() > plain.items()
    assert set(found) - set(plain) == {"out_of_domain", "out_of_domain_features"}
    node = graph.nodes[found["out_of_domain"]]
    assert {role: other.kind for role, other in node.inputs.items()} == {
        "features": "out_of_domain_features", "instruct": "instruct",
    }  # fmt: skip
    assert "out_of_domain_features" not in without_cache
    assert "out_of_domain" in without_cache


def test_upstream_comes_before_downstream(world: Path) -> None:
    seen: set[str] = set()
    for address, node in graph_of("stage_ablation").nodes.items():
        assert {other.address for other in node.inputs.values()} <= seen
        seen.add(address)


def test_seeds_have_their_own_stage_one(world: Path) -> None:
    graph = build_graph(name_cells(with_seeds(get_experiment("mix_ablation").cells(load()), 3)))
    assert len(nodes_of(graph, "align")) == 3
    assert len(nodes_of(graph, "features")) == 1
    assert len(graph.cells) == 36


@pytest.mark.parametrize(
    "override",
    [
        "trainer.num_workers=3",
        "trainer.checkpoint_every_n_steps=1",
        "trainer.log_every_n_steps=3",
        "trainer.devices=2",
    ],
)
def test_execution_settings_do_not_change_an_address(world: Path, override: str) -> None:
    assert addresses(override) == addresses()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("instruct.num_steps=61", {"instruct", "evaluate"}),
        ("instruct.optim.lr=0.002", {"instruct", "evaluate"}),
        ("cell.target_share=0.6", {"instruct", "evaluate"}),
        ("cell.text_only=true", {"instruct", "evaluate"}),
        ("instruct.prompt_style=FULL", {"instruct", "evaluate"}),
        ("evaluate.max_new_tokens=9", {"evaluate"}),
        ("evaluate.max_new_tokens_by_kind.wild=5", {"evaluate"}),
        ("evaluate.prompt_style=instructed", {"evaluate"}),
        ("evaluate.yes_no_policy=any_language", {"evaluate"}),
        ("evaluate.relaxed=false", {"evaluate"}),
        ("align.optim.lr=0.002", {*TRAINED, "evaluate"}),
        ("cell.seed=1", {*TRAINED, "evaluate"}),
        ("trainer.precision=bf16-true", {*TRAINED, "evaluate"}),
        ("model.connector.kind=mlp2x_gelu", {*TRAINED, "evaluate"}),
    ],
)
def test_settings_that_determine_a_result_change_its_address(
    world: Path, override: str, changed: set[str]
) -> None:
    before, after = addresses(), addresses(override)
    assert {kind for kind in before if before[kind] != after[kind]} == changed


def test_the_content_of_the_data_changes_the_address(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = addresses("cell.text_only=true")
    path = world / "data" / "text_eu.manifest.json"
    original = path.read_text()
    path.write_text(original.replace('"record": "text.eu"', '"record": "chat.eu"'))
    try:
        after = addresses("cell.text_only=true")
    finally:
        path.write_text(original)
    changed = {kind for kind in before if before[kind] != after[kind]}
    assert changed == {"instruct", "evaluate"}


def test_another_benchmark_retrains_nothing(world: Path) -> None:
    """Its images are in the feature cache that training reads, but not in its address."""
    path = world / "data" / "benchmark_other.manifest.json"
    original = (world / "data" / "benchmark_test.manifest.json").read_text()
    path.write_text(original.replace('"name": "benchmark_test"', '"name": "benchmark_other"'))
    before, after = addresses(), addresses("data.benchmarks=[benchmark_other]")
    path.unlink()
    changed = {kind for kind in before if before[kind] != after[kind]}
    assert changed == {"features", "evaluate"}


def test_one_evaluation_asks_several_benchmarks(world: Path) -> None:
    path = world / "data" / "benchmark_other.manifest.json"
    original = (world / "data" / "benchmark_test.manifest.json").read_text()
    path.write_text(original.replace('"name": "benchmark_test"', '"name": "benchmark_other"'))
    both = "data.benchmarks=[benchmark_test,benchmark_other]"
    try:
        graph = build_graph(name_cells([load(both)]))
        (evaluate,) = nodes_of(graph, "evaluate")
        (features,) = nodes_of(graph, "features")
        before, after = addresses(), addresses(both)
    finally:
        path.unlink()
    manifests = ("data/benchmark_test.manifest.json", "data/benchmark_other.manifest.json")
    assert evaluate.stage.manifests == manifests
    assert set(manifests) <= set(features.stage.manifests)
    assert {kind for kind in before if before[kind] != after[kind]} == {"features", "evaluate"}


def test_a_source_without_samples_is_left_out(world: Path) -> None:
    """Its manifest may be missing."""
    left_out = "instruct.text_only.text={source: absent, samples_per_step: 0}"
    graph = build_graph(name_cells([load("cell.text_only=true", left_out)]))
    (node,) = nodes_of(graph, "instruct")
    assert "absent" not in dump_config(node.stage)


def test_without_a_feature_cache_there_is_no_features_stage(world: Path) -> None:
    assert "features" not in addresses("model.cache_features=false")


def test_part_of_a_grid(world: Path) -> None:
    part = graph_of("mix_ablation").only({"general_share20_s0"})
    assert list(part.cells) == ["general_share20_s0"]
    assert [node.kind for node in part.nodes.values()] == [
        "features", "align", "instruct", "evaluate",
    ]  # fmt: skip


def test_equal_cells_are_rejected(world: Path) -> None:
    with pytest.raises(ConfigError, match="two cells of the grid are equal: 'general_share20_s0'"):
        name_cells([load(), load()])


def test_only_matches_parts_of_cell_ids(world: Path) -> None:
    cells = name_cells(get_experiment("mix_ablation").cells(load()))
    chosen = [cell.cell_id for cell in select(cells, ["share100", "share0_txt"])]
    assert chosen == ["general_share100_s0", "general_share0_txt_s0", "general_share100_txt_s0"]


@pytest.fixture(scope="module")
def plans_root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return one root for all plans, so that lengths of samples are measured once."""
    return str(tmp_path_factory.mktemp("plans"))


@pytest.mark.slow
@pytest.mark.parametrize("name", GRIDS)
def test_every_experiment_has_a_plan(
    name: str, monkeypatch: pytest.MonkeyPatch, plans_root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plans use the shipped profile."""
    monkeypatch.chdir(worlds.REPOSITORY)
    assert run.main(["--exp", name, "--dry-run", "--root", plans_root]) == 0
    output = capsys.readouterr().out
    found = re.search(r"(\d+) cells, (\d+) stage runs", output)
    assert found is not None
    assert int(found[1]) >= 1
    assert int(found[2]) > int(found[1])
    assert "to run" in output


def test_the_list_names_every_experiment(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    output = capsys.readouterr().out
    for name in questions():
        assert name in output


@pytest.mark.slow
def test_a_configuration_survives_a_round_trip(world: Path, tmp_path: Path) -> None:
    for config in get_experiment("mix_ablation").cells(load()):
        path = tmp_path / "config.yaml"
        path.write_text(dump_config(config))
        assert load_config(RunConfig, path) == config


def test_every_stage_survives_a_round_trip(world: Path, tmp_path: Path) -> None:
    for node in graph_of("stage_ablation").nodes.values():
        path = tmp_path / "spec.yaml"
        path.write_text(dump_config(node.stage))
        assert load_config(type(node.stage), path) == node.stage


@pytest.mark.parametrize(
    "module",
    [
        configuration.run_config,
        experiments.grids.distilled_tower,
        experiments.grids.embedded_backbones,
    ],
    ids=lambda m: m.__name__,
)
def test_every_configuration_field_is_documented(module: object) -> None:
    tree = ast.parse(Path(str(module.__file__)).read_text())  # type: ignore[attr-defined]
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    configs = [name for name in classes if dataclasses.is_dataclass(getattr(module, name, None))]
    assert configs
    for name in configs:
        body = classes[name].body
        for field, after in zip(body, [*body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                text = after.value if isinstance(after, ast.Expr) else None
                target = ast.unparse(field.target)
                is_text = isinstance(text, ast.Constant) and isinstance(text.value, str)
                assert is_text, f"{name}.{target} has no docstring below it"

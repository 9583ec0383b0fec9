"""Amounts of target-language data are checked in planning, and become shares."""

from pathlib import Path

import pytest

from configuration.axes import name_cells, vary
from configuration.run_config import RunConfig
from configuration.source_places import with_language_tasks
from core.config import load_config
from core.errors import ConfigError
from pipeline.graph import build_graph


def plan(profile="embedded", *, overrides=(), **cell):
    base = load_config(RunConfig, Path(f"configs/{profile}.yaml"), overrides=overrides)
    base, _ = with_language_tasks(base)
    return build_graph(name_cells(vary(base, **cell)), is_plan=True)


@pytest.mark.slow
def test_a_number_of_images_becomes_a_share_of_what_the_stage_serves():
    graph = plan(base_samples=(750,), target_samples=(0, 250))
    assert list(graph.target_shares.values()) == [0.0, 0.25]
    assert graph.only(list(graph.cells)[:1]).target_shares == {"general_samples0+750_s0": 0.0}
    assert plan(target_share=(0.5,)).target_shares == {}


@pytest.mark.parametrize(
    ("overrides", "cell", "message"),
    [
        (
            ["instruct.num_steps=10"],
            {"target_samples": (100,)},
            r"instruct: target_samples=100 need 100 different .* the 10 steps .* serve 72;",
        ),
        (
            ["align.target_share=null", "align.target_samples=999999"],
            {},
            "align: target_samples=999999",
        ),
        ([], {"target_samples": (9,), "base_samples": (99999,)}, "and base_samples=99999 need"),
    ],
)
def test_more_than_there_is_is_refused_before_training(overrides, cell, message):
    with pytest.raises(ConfigError, match=message):
        plan(overrides=overrides, **cell)


def test_expected_sources_are_checked_as_well():
    graph = plan("paper", target_samples=(29_000,))
    (share,) = graph.target_shares.values()
    assert share == pytest.approx(29_000 / 146_000, rel=1e-3)
    with pytest.raises(ConfigError, match="instruct: target_samples=200000"):
        plan("paper", target_samples=(200_000,))

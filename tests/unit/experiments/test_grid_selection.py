"""Replicated cells, and folders of grids that no other grid overwrites."""

from pathlib import Path
from typing import Any

import pytest

from configuration.axes import name_cells, vary
from configuration.grid_request import GridRequest
from configuration.run_config import RunConfig
from core.config import load_config
from core.errors import ConfigError
from core.file_names import FILE_NAME
from experiments.grids import embedded_backbones, mix_ablation
from experiments.registry import select, with_seeds
from experiments.run_steps.grid_description import check_continues, derived_name
from experiments.run_steps.planning import make_plan

_NUM_CELLS = 12


def _counts(*replicate: str, num_seeds: int = 1) -> dict[tuple[float, bool], int]:
    configs = mix_ablation.cells(load_config(RunConfig, Path("configs/embedded.yaml")))
    counts: dict[tuple[float, bool], int] = {}
    for config in with_seeds(configs, num_seeds, replicate):
        key = (config.cell.target_share, config.cell.text_only)
        assert config.cell.seed == counts.get(key, 0)
        counts[key] = counts.get(key, 0) + 1
    return counts


def test_a_part_of_an_id_replicates_every_cell_that_has_it() -> None:
    counts = _counts("share20=3", "share100=3")
    replicated = {cell for cell, number in counts.items() if number == 3}
    assert replicated == {(share, text) for share in (0.2, 1.0) for text in (False, True)}
    assert sum(counts.values()) == _NUM_CELLS + 8


@pytest.mark.parametrize("selector", ["general_share20", "general_share20_s0"])
def test_a_full_id_replicates_one_cell(selector: str) -> None:
    counts = _counts(f"{selector}=3")
    assert counts.pop((0.2, False)) == 3
    assert set(counts.values()) == {1}


def test_an_axis_replicates_the_cells_with_its_value() -> None:
    counts = _counts("text_only=true=2")
    assert {text for (_, text), number in counts.items() if number == 2} == {True}


def test_axes_and_fields_of_variants_select_cells() -> None:
    base = load_config(RunConfig, Path("configs/embedded.yaml"))
    length = {"short": {}, "long": {"instruct.num_steps": 1800}}
    configs = vary(base, {"length": length, "instruct.optim.lr": (1e-3, 1e-4)})
    seeds = [c.cell.seed for c in with_seeds(configs, 1, ["length=long=3"])]
    assert seeds == [0, 0, 0, 1, 2, 0, 1, 2]
    cells = name_cells(configs)
    for pattern, found in (
        ("lr=1e-3", [0, 2]), ("optim.lr=0.0001", [1, 3]), ("num_steps=1800", [2, 3]),
        ("length=short", [0, 1]), ("lengthlong", [2, 3]),
    ):  # fmt: skip
        assert select(cells, [pattern]) == [cells[at] for at in found], pattern
    with pytest.raises(ConfigError, match="AXIS=VALUE"):
        select(cells, ["lr=1e-5"])


def test_a_plan_names_the_selected_cells_and_what_its_scores_mean() -> None:
    request = GridRequest(experiment="mix_ablation", only=("share20",), is_dry_run=True)
    plan = make_plan(request)
    names = "general_share20_s0, general_share20_txt_s0"
    assert plan.describe_selection() == f"2 of {_NUM_CELLS} cells are selected: {names}"
    assert plan.note == ""
    smoke = make_plan(GridRequest(experiment="smoke", is_dry_run=True))
    assert smoke.describe_selection() == ""
    assert "meaningless" in smoke.note


def test_other_cells_keep_the_number_of_seeds() -> None:
    assert _counts("share0=5", num_seeds=2)[0.2, True] == 2


@pytest.mark.parametrize(
    ("replicate", "words"),
    [
        (["share2=3"], ["share2", "general_share20_s0"]),
        (["share20"], ["SELECTOR=N"]),
        (["share20=0"], ["at least 1"]),
        (["share20=3", "general_share20=5"], ["general_share20_s0", "already has 3 seeds"]),
        (["text_only=maybe=2"], ["text_only=maybe"]),
    ],
)
def test_an_unclear_selection_is_rejected(replicate: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        _counts(*replicate)
    assert all(word in str(caught.value) for word in words)


def _describe(*cells: str, overrides: tuple[str, ...] = (), result: str = "a") -> dict[str, Any]:
    listed = [{"cell_id": cell, "stages": {"evaluate": f"{result}{cell}"}} for cell in cells]
    return {"experiment": "mix", "profile": "embedded", "overrides": list(overrides),
            "cells": listed}  # fmt: skip


def test_a_grid_may_gain_cells_and_change_its_results_with_the_code() -> None:
    check_continues("mix-embedded", {}, _describe("x"))
    check_continues("mix-embedded", _describe("x"), _describe("x", "y"))
    check_continues("mix-embedded", _describe("x"), _describe("x", result="b"))


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (_describe("x", "y", overrides=("instruct.num_steps=600",), result="b"),
         ["(nothing)", "instruct.num_steps=600", "--name mix-embedded-num_steps=600"]),
        (_describe("x"), ["1 cells", "(y)", "--name mix-embedded-2"]),
        ({**_describe("x", "y"), "profile": "paper"}, ["belongs to profile 'embedded'", "--name"]),
    ],
)  # fmt: skip
def test_a_grid_never_overwrites_another_one(now: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_continues("mix-embedded", _describe("x", "y"), now)
    assert all(word in str(caught.value) for word in words)


def test_a_refused_grid_names_only_the_values_that_differ() -> None:
    before = _describe("x", overrides=("data.folder=data/embedded_ka", "languages.target=ka"))
    now = _describe("x", result="b", overrides=(*before["overrides"], "instruct.num_steps=40"))
    with pytest.raises(ConfigError) as raised:
        check_continues("mix-embedded", before, now)
    message = str(raised.value)
    assert "--set (nothing), this command has --set instruct.num_steps=40 besides" in message
    assert message.endswith("--name mix-embedded-num_steps=40")


def test_a_derived_name_is_a_name_of_a_folder() -> None:
    overrides = ("data.folder=../my data", "model.tower.grids=[1,3]", f"a.b={'x' * 200}")
    name = derived_name(_describe("x", overrides=overrides))
    assert name.startswith("mix-embedded-folder=.._my_data-grids=_1_3_-b=xxx")
    assert FILE_NAME.fullmatch(name)


def test_an_experiment_without_cells_never_overwrites_another_one() -> None:
    shipped = {**_describe(), "stages": ["a", "b"]}
    check_continues("backbones", shipped, {**shipped, "stages": ["a", "c"]})
    other = {**shipped, "stages": ["a", "c"], "overrides": ["general.num_steps=5"]}
    with pytest.raises(ConfigError, match="--name"):
        check_continues("backbones", shipped, other)


def test_other_models_do_not_replace_the_shipped_ones() -> None:
    """A recipe with --set copied its models over those of the profile embedded."""
    with pytest.raises(ConfigError, match=r"general.num_steps=5 trains other .* --set models="):
        embedded_backbones.load(["trainer.num_workers=1", "general.num_steps=5"])


def test_the_name_of_a_grid_is_a_folder_name() -> None:
    assert GridRequest(experiment="mix").grid_name == "mix-embedded"
    assert GridRequest(experiment="mix", name="longer-v2").grid_name == "longer-v2"
    with pytest.raises(ConfigError, match=r"--name '\.\./x'"):
        GridRequest(experiment="mix", name="../x")

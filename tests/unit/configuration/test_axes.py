"""Axes: any configuration field varies, and every cell has a name of its own."""

from pathlib import Path
from typing import Any

import pytest

from configuration.axes import AxisValue, flatten, is_value, name_cells, vary
from configuration.run_config import RunConfig, Stages
from core.config import load_config
from core.errors import ConfigError


@pytest.fixture(scope="module")
def base() -> RunConfig:
    return load_config(RunConfig, Path("configs/embedded.yaml"))


def test_study_axes_give_the_usual_names(base: RunConfig) -> None:
    cells = name_cells(vary(base, text_only=(False, True), target_share=(0.0, 0.2)))
    assert [cell.cell_id for cell in cells] == [
        "general_share0_s0", "general_share20_s0", "general_share0_txt_s0", "general_share20_txt_s0"
    ]  # fmt: skip
    assert cells[1].axes == {
        "target_share": 0.2, "text_only": False, "backbone": "general", "stages": "both", "seed": 0
    }  # fmt: skip


def test_a_number_of_images_names_cells_in_place_of_the_share(base: RunConfig) -> None:
    cells = name_cells(vary(base, target_samples=(0, 300)))
    assert [cell.cell_id for cell in cells] == ["general_samples0_s0", "general_samples300_s0"]
    assert cells[1].axes["target_samples"] == 300
    assert "target_share" not in cells[1].axes
    assert "target_samples" not in name_cells([base])[0].axes


def test_an_axis_does_not_replace_a_fixed_number_of_images() -> None:
    overrides = ["cell.target_share=null", "cell.target_samples=500"]
    base = load_config(RunConfig, Path("configs/embedded.yaml"), overrides=overrides)
    for axis in ({"target_share": (0.2,)}, {"target_samples": (100,)}):
        with pytest.raises(ConfigError, match=r"target_samples=500: .* such as stage_ablation"):
            vary(base, **axis)
    assert vary(base, seed=(1,))[0].cell.target_samples == 500


def test_any_field_is_an_axis(base: RunConfig) -> None:
    kinds = ("linear", "mlp2x_gelu")
    fields = {"model.connector.kind": kinds, "instruct.num_steps": (10, 20)}
    cells = name_cells(vary(base, fields))
    assert [cell.cell_id for cell in cells] == [
        f"general_share20_s0_num_steps{steps}_kind{kind}"
        for kind in ("linear", "mlp2x_gelu")
        for steps in (10, 20)
    ]
    assert cells[3].axes["model.connector.kind"] == "mlp2x_gelu"
    assert cells[3].axes["instruct.num_steps"] == 20
    assert cells[3].config.instruct.num_steps == 20
    assert cells[3].config.align == base.align


def test_names_of_equal_last_parts_are_told_apart(base: RunConfig) -> None:
    fields = {"align.num_steps": (10, 20), "instruct.num_steps": (10, 20)}
    ids = [cell.cell_id for cell in name_cells(vary(base, fields))]
    assert ids[1] == "general_share20_s0_align.num_steps10_instruct.num_steps20"
    assert len(set(ids)) == 4


def test_entries_of_mappings_and_long_values_are_axes(base: RunConfig) -> None:
    path = "instruct.visual.conversations.samples_per_step"
    long = "a_folder_with_a_very_long_name/of_data"
    cells = name_cells(vary(base, {path: (4.0, 8.0), "data.folder": ("short", long)}))
    ids = [cell.cell_id for cell in cells]
    assert ids[0] == "general_share20_s0_samples_per_step4_foldershort"
    assert len(set(ids)) == 4
    assert all(len(cell_id) < 80 for cell_id in ids)


def test_equal_cells_are_rejected(base: RunConfig) -> None:
    with pytest.raises(ConfigError, match="equal: 'general_share20_s0'"):
        name_cells([base, base])


def test_a_field_that_does_not_exist_is_named(base: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"'kindd'.*model\.connector\.kindd"):
        vary(base, {"model.connector.kindd": (1,)})


def test_texts_stand_for_choices_and_numbers(base: RunConfig) -> None:
    cell = vary(base, {"model.connector.kind": ("mlp2x_gelu",), "instruct.num_steps": ("20",)})[0]
    assert cell.model.connector.kind == "mlp2x_gelu"
    assert cell.instruct.num_steps == 20


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"instruct.num_steps": ("x",)}, r"instruct\.num_steps is 'x'; expected a whole number"),
        ({"instruct.num_steps": (None,)}, "can't be empty"),
        ({"instruct.num_steps": 3}, "expected a list of values"),
        ({"model.connector.kind": "linear"}, "expected a list of values"),
        ({"instruct.num_steps": ()}, "has no values"),
        ({"instruct.optim": ({"lr": 1.0},)}, r"instruct\.optim\.FIELD"),
        ({"model.connector.kind": ("linnear",)}, "Did you mean 'linear'"),
        ({"backbone": {"a": {"instruct.num_steps": 3}}}, "give it a new name"),
        ({"x": {"a": {"cell.seed": 3}}}, "--replicate"),
        ({"x": {"a": 3}}, "expected a name and the fields"),
        ({"x": {"a": {"instruct": 1}}, "instruct.num_steps": (1, 2)}, "two axes set instruct"),
    ],
)
def test_an_axis_that_makes_no_sense_is_named(
    base: RunConfig, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        vary(base, fields)


def test_cells_that_differ_in_anything_have_different_ids(base: RunConfig) -> None:
    """Ids print six digits and replace separators, which made different cells 'equal'."""
    for fields in (
        {"cell.target_share": (0.333333333, 0.3333333331)},
        {"instruct.optim.lr": (1e-3, 1.0000000001e-3)},
        {"data.folder": ("a/b", "a-b")},
        {"align.target_share": (None, 0.5), "evaluate.wordings": ([], ["a"], ["a", "b"])},
    ):
        cells = name_cells(vary(base, fields, seed=(0, 1)))
        assert len({cell.cell_id for cell in cells}) == len(cells)
    hashed = [
        c.cell_id for c in name_cells(vary(base, {"data.folder": ("a/b", "a-b")}, seed=(0, 1)))
    ]
    assert [one.replace("_s1", "_s0") for one in hashed[1::2]] == hashed[::2]


TRAINING = {"short": {}, "long": {"align.num_steps": 600, "instruct.num_steps": 1800}}


def test_a_named_variant_of_several_fields_is_one_axis(base: RunConfig) -> None:
    kinds = ("linear", "mlp2x_gelu")
    cells = name_cells(vary(base, {"training": TRAINING, "model.connector.kind": kinds}))
    assert [cell.cell_id for cell in cells] == [
        f"general_share20_s0_training{name}_kind{kind}"
        for name in ("short", "long") for kind in kinds
    ]  # fmt: skip
    last = cells[-1]
    assert last.axes["training"] == "long"
    assert last.fields == {"align.num_steps": 600, "instruct.num_steps": 1800}
    assert not last.fields.keys() & last.axes.keys()
    assert (last.config.align.num_steps, last.config.instruct.num_steps) == (600, 1800)
    assert cells[0].fields == {
        "align.num_steps": base.align.num_steps, "instruct.num_steps": base.instruct.num_steps
    }  # fmt: skip


def test_a_variant_may_set_fields_of_the_study(base: RunConfig) -> None:
    recipe = {
        "paper": {"cell.text_only": True, "cell.target_share": 0.2},
        "plain": {"cell.text_only": False, "cell.target_share": 0.5},
    }
    cells = name_cells(vary(base, {"recipe": recipe}))
    assert [c.cell_id for c in cells] == [
        "general_share20_txt_s0_recipepaper", "general_share50_s0_recipeplain"
    ]  # fmt: skip
    assert "text_only" not in cells[0].axes
    assert cells[0].fields == {"cell.text_only": True}
    assert [c.axes["target_share"] for c in cells] == [0.2, 0.5]


def test_a_field_that_also_differs_without_a_variant_stays_an_axis(base: RunConfig) -> None:
    grid = vary(base, {"training": TRAINING}) + vary(base, {"instruct.num_steps": (7, 8)})
    cells = name_cells(grid)
    assert len({cell.cell_id for cell in cells}) == 4
    assert [cell.axes["instruct.num_steps"] for cell in cells[2:]] == [7, 8]
    assert [cell.axes["training"] for cell in cells] == ["short", "long", None, None]


def test_variants_without_a_difference_are_rejected(base: RunConfig) -> None:
    with pytest.raises(ConfigError, match=r"equal: 'general_share20_s0_xa' and '.*_xb'"):
        name_cells(vary(base, {"x": {"a": {}, "b": {}}}))


def test_variants_are_no_part_of_the_configuration(base: RunConfig) -> None:
    (cell,) = vary(base, {"training": {"same": {}}})
    assert flatten(cell) == flatten(base)


@pytest.mark.parametrize(
    ("found", "wanted", "is_same"),
    [
        (0.001, "1e-3", True), (0.001, "0.01", False), (20, "20", True), (True, "true", True),
        (1, True, False), (None, "null", True), ("None", None, False), ("Linear", "linear", True),
        ('["a", "b"]', ["a", "b"], True), (5, "five", False),
    ],
)  # fmt: skip
def test_values_may_be_written_as_text(found: AxisValue, wanted: Any, is_same: bool) -> None:
    assert is_value(found, wanted) is is_same


def test_flatten_lists_every_leaf(base: RunConfig) -> None:
    leaves = flatten(base)
    assert leaves["cell.stages"] == Stages.BOTH.value
    assert leaves["retention.tasks"] == '["text:text_{base}", "text:text_{target}"]'

"""Axes: any configuration field varies, and every cell has a name of its own."""

from pathlib import Path

import pytest

from configuration.axes import flatten, name_cells, vary
from configuration.run_config import RunConfig, Stages
from core.config import load_config
from core.errors import ConfigError
from models.connector import ConnectorKind


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


def test_any_field_is_an_axis(base: RunConfig) -> None:
    kinds = (ConnectorKind.LINEAR, ConnectorKind.MLP2X_GELU)
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


def test_flatten_lists_every_leaf(base: RunConfig) -> None:
    leaves = flatten(base)
    assert leaves["cell.stages"] == Stages.BOTH.value
    assert leaves["retention.tasks"] == '["text:text_en", "text:text_eu"]'

"""The experiment `zero_images` shares its reference cells with `full_grid`."""

from pathlib import Path

from configuration.axes import name_cells
from configuration.run_config import RunConfig
from core.config import fingerprint, load_config, to_plain
from experiments.grids import full_grid, zero_images
from pipeline.stages.align import AlignStage
from pipeline.stages.instruct import InstructStage
from reporting.claims.claim_cells import select_cells
from reporting.claims.preregistration import combine_hypotheses
from reporting.settings import configured_axes


def _trainings(config: RunConfig) -> str:
    """Return a hash of everything in the configuration that determines the trained model."""
    stages = [kind.from_config(config) for kind in (AlignStage, InstructStage)]
    return fingerprint([to_plain(stage, with_execution=False) for stage in stages])


def test_reference_cells_are_those_of_the_full_grid_and_every_claim_applies() -> None:
    base = load_config(RunConfig, Path("configs/embedded.yaml"))
    cells = name_cells(zero_images.cells(base))
    assert len(cells) == 24
    known = {_trainings(config) for config in full_grid.cells(base)}
    for cell in cells:
        is_new = cell.axes["images"] == "none"
        assert (_trainings(cell.config) not in known) is is_new
        assert (cell.config.align.target_share == 0.0) is is_new
    planned = [configured_axes(cell.axes) for cell in cells]
    fields = {configured_axes(cell.axes): cell.fields for cell in cells}
    own = {name: combine_hypotheses(zero_images.hypotheses).hypotheses[name]
           for name in zero_images.hypotheses}  # fmt: skip
    numbers = {name: len(select_cells(one, planned, {}, fields)) for name, one in own.items()}
    assert numbers == {
        "zero_images_see": 6, "zero_images_beat_majority": 6, "zero_images_suffice": 6,
        "zero_images_names": 3, "zero_images_other_types": 3, "zero_images_cost_names_more": 3,
        "zero_images_stage_1_helps": 3,
    }  # fmt: skip
    assert all(isinstance(select_cells(one, planned, {}, fields), list) for one in own.values())

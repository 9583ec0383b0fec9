"""Experiments that are files of a user: loaded safely, or rejected with the place of the fault."""

import sys
from pathlib import Path

import pytest

from configuration.grid_request import GridRequest
from core.errors import ConfigError
from experiments.registry import get_experiment, questions
from experiments.run_steps.planning import make_plan
from experiments.skypilot import CloudResources, make_task

EXPERIMENT = '''\
"""Is longer training better?"""

import dataclasses

from configuration.axes import vary


@dataclasses.dataclass(frozen=True)
class Length:
    num_steps: int


def cells(base):
    steps = [length.num_steps for length in (Length(5), Length(10))]
    return vary(base, {"instruct.num_steps": steps})
'''


def request(path: Path) -> GridRequest:
    name, file = GridRequest.split_experiment(str(path))
    return GridRequest(experiment=name, experiment_file=file, is_dry_run=True)


def write(folder: Path, text: str, name: str = "training_length.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.slow
def test_a_file_is_an_experiment_and_nothing_is_written_beside_it(tmp_path: Path) -> None:
    path = write(tmp_path, EXPERIMENT)
    plan = make_plan(request(path))
    assert [cell.cell_id for cell in plan.cells] == [
        "general_share20_s0_num_steps5", "general_share20_s0_num_steps10"
    ]  # fmt: skip
    assert next(iter(questions(str(path)).items())) == (str(path), "Is longer training better?")
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert "training_length" not in sys.modules
    assert request(path).grid_name == "training_length-embedded"


def test_a_shipped_file_may_be_given_by_its_path() -> None:
    assert get_experiment("smoke", Path("experiments/grids/smoke.py")) is get_experiment("smoke")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"""Q?"""\ndef cells(base:\n', "line 2: SyntaxError"),
        ('"""Q?"""\n\nimport not_there\n', "line 3: ModuleNotFoundError"),
        ('"""Q?"""\nimport sys\nsys.exit(3)\n', "line 3: SystemExit: 3"),
        ('"""Q?"""\nx = 1\n', r"defines no function cells\(base\)"),
        ("def cells(base):\n    return [base]\n", "has no docstring"),
        ('"""Q?"""\ndef cells(base):\n    return base.nothing\n', "line 3: AttributeError"),
        ('"""Q?"""\ndef cells(base):\n    return None\n', "returns None; expected a list"),
        ('"""Q?"""\ndef cells(base):\n    return []\n', "returns no cells"),
        ('"""Q?"""\ndef cells(base):\n    return [3]\n', "expected a RunConfig"),
        ('"""Q?\0"""\n', "null bytes"),
    ],
)
def test_a_fault_in_a_file_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=words) as caught:
        make_plan(request(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mix_ablation.py", "rename the file"),
        ("my experiment.py", "without spaces"),
        ("length.txt", r"must end with \.py"),
    ],
)
def test_a_file_of_another_kind_or_a_taken_name_is_rejected(
    tmp_path: Path, name: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_plan(request(write(tmp_path, EXPERIMENT, name)))


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        make_plan(request(tmp_path))
    with pytest.raises(ConfigError, match=r"nothing\.py does not exist"):
        make_plan(request(tmp_path / "nothing.py"))


def test_execution_settings_are_no_axis(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("instruct.num_steps", "trainer.log_every_n_steps")
    with pytest.raises(ConfigError, match=r"trainer\.log_every_n_steps differs between cells"):
        make_plan(request(write(tmp_path, text)))


@pytest.mark.slow
def test_cells_that_train_the_same_model_are_reported(tmp_path: Path) -> None:
    text = EXPERIMENT.replace("instruct.num_steps", "instruct.compute.loss_chunk")
    plan = make_plan(request(write(tmp_path, text)))
    assert plan.full_graph.equal_cells() == [[cell.cell_id for cell in plan.cells]]


@pytest.mark.slow
def test_a_cloud_task_needs_the_file_in_the_working_folder(tmp_path: Path) -> None:
    resources = CloudResources(bucket="s3://bucket")
    with pytest.raises(ConfigError, match="move the file into it"):
        make_task(request(write(tmp_path, EXPERIMENT)), resources)
    task = make_task(request(Path("experiments/grids/smoke.py")), resources)
    assert "--exp experiments/grids/smoke.py --profile embedded" in task["run"]

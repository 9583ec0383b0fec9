"""Experiments, stage kinds and architectures are one file each, without a change of others."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support import small_world as worlds

pytestmark = pytest.mark.slow
PACKAGES = (
    "core", "models", "datamodules", "lightning_modules", "callbacks", "evaluation", "data_prep",
    "configuration", "planner", "pipeline", "reporting", "serving", "experiments", "languages",
)  # fmt: skip
EXPERIMENT = '''\
"""Does a deeper connector or a longer stage 2 help?"""

from configuration.axes import vary
from configuration.run_config import RunConfig


def cells(base: RunConfig) -> list[RunConfig]:
    """Return four cells: two connectors, two lengths of stage 2."""
    kinds = ("linear", "mlp2x_gelu")
    return vary(base, {"model.connector.kind": kinds, "instruct.num_steps": (3, 5)})
'''
OUTSIDE = '''\
"""Does the length of training or the connector matter more?"""

from configuration.axes import vary
from configuration.run_config import RunConfig

hypotheses = {
    "longer_helps": {
        "text": "Training {first} is better than {second}", "source": "test", "axis": "length",
        "first": "long", "second": "short", "pool": ["model.connector.kind"], "test": "superiority",
    }
}


def cells(base: RunConfig) -> list[RunConfig]:
    """Return four cells: two lengths of both stages, two connectors."""
    length = {"short": {}, "long": {"align.num_steps": 4, "instruct.num_steps": 5}}
    fields = {"length": length, "model.connector.kind": ("linear", "mean_token")}
    return vary(base, fields)
'''
ARCHITECTURE = '''\
"""Architecture `mean_token`: one visual token, the mean of the features."""

from collections.abc import Mapping

import torch

from models.architectures.linear import LinearConnector
from models.connector import register_connector


@register_connector("mean_token")
class MeanTokenConnector(LinearConnector):
    """Affine map of the mean of the features."""

    @classmethod
    def count_image_tokens(cls, num_features: int, options: Mapping[str, int]) -> int:
        """Return 1."""
        return 1

    def forward(self, features_NPE: torch.Tensor) -> torch.Tensor:
        """Average and project features."""
        return super().forward(features_NPE.mean(dim=1, keepdim=True))
'''
STAGE = '''\
"""Stage kind `reply_length`: the mean length of the replies of an evaluation."""

import dataclasses
import json
from typing import ClassVar, Self

import pyarrow.parquet as pq

from configuration.run_config import RunConfig
from pipeline.stages.base import Stage, StageContext


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplyLengthStage(Stage):
    """Mean length of the replies in a unit."""

    kind: ClassVar[str] = "reply_length"
    upstream: ClassVar[tuple[str, ...]] = ("evaluate",)

    unit: str

    @classmethod
    def from_config(cls, config: RunConfig) -> Self:
        """Measure every cell."""
        return cls(unit="characters")

    def run(self, context: StageContext) -> None:
        """Write the mean length."""
        outputs = pq.read_table(context.inputs["evaluate"] / "predictions.parquet")["output"]
        lengths = [len(text) for text in outputs.to_pylist()]
        result = {self.unit: sum(lengths) / len(lengths)}
        (context.folder.scratch / "length.json").write_text(json.dumps(result))
'''
IDS = [
    f"general_share20_s0_num_steps{steps}_kind{kind}"
    for kind in ("linear", "mlp2x_gelu")
    for steps in (3, 5)
]
OUTSIDE_IDS = [
    f"general_share40_s0_length{length}_kind{kind}"
    for length in ("short", "long")
    for kind in ("linear", "mean_token")
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages with a new experiment, a new stage kind and a new architecture."""
    folder = worlds.build_world(tmp_path_factory.mktemp("checkout"))
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(worlds.REPOSITORY / name, folder / name, ignore=ignored)
    (folder / "experiments" / "grids" / "connector_ablation.py").write_text(EXPERIMENT)
    (folder / "pipeline" / "stages" / "reply_length.py").write_text(STAGE)
    (folder / "models" / "architectures" / "mean_token.py").write_text(ARCHITECTURE)
    return folder


def run(checkout: Path, *arguments: str) -> str:
    # A fresh interpreter: a preloaded one has already imported the packages of the repository.
    code, output = worlds.finish(worlds.start(checkout, *arguments, is_fresh=True))
    assert code == 0, output
    return output


def test_a_new_experiment_is_listed_and_planned(checkout: Path) -> None:
    listed = run(checkout, "--list")
    assert re.search(r"connector_ablation +Does a deeper connector", listed)
    planned = run(
        checkout,
        "--exp",
        "connector_ablation",
        "--profile",
        worlds.PROFILE,
        "--dry-run",
        "--verbose",
    )
    # Features are shared, and one alignment per connector; everything else is per cell.
    assert "4 cells, 15 stage runs" in planned
    # Names of stage runs are folded in the first column of the table.
    rows = [line.split("\u2502") for line in planned.splitlines() if line.startswith("\u2502")]
    names = "".join(row[1].strip() for row in rows)
    assert all(cell_id in names for cell_id in IDS)


def test_a_users_file_and_a_new_stage_kind_end_in_one_report(
    checkout: Path, tmp_path: Path
) -> None:
    file = tmp_path / "length_or_connector.py"
    file.write_text(OUTSIDE)
    arguments = ("--exp", str(file), "--profile", worlds.PROFILE, "--root", "out")
    run(checkout, *arguments, "--set", "cell.target_share=0.4")
    lengths = sorted((checkout / "out" / "store" / "reply_length").glob("*/result/length.json"))
    assert len(lengths) == 4
    assert all(json.loads(path.read_text())["characters"] >= 0 for path in lengths)
    folder = checkout / "out" / "grids" / f"length_or_connector-{worlds.PROFILE}"
    cells = json.loads((folder / "grid.json").read_text())["cells"]
    assert [cell["cell_id"] for cell in cells] == OUTSIDE_IDS
    assert {cell["fields"]["instruct.num_steps"] for cell in cells} == {60, 5}
    assert (folder / "experiment.py").read_text() == OUTSIDE
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    page = (folder / "report" / "report.html").read_text()
    sizes = [cell["training_sizes"]["instruct"] for cell in cells]
    assert [size["image_tokens"] for size in sizes] == [4, 1, 4, 1]
    assert sizes[1]["flops"] < sizes[0]["flops"]
    texts = ("mean_token", "linear", "Training long is better than short", "reply_length",
             "training operations")  # fmt: skip
    assert [text for text in texts if text not in page] == []
    rows = (folder / "report" / "cells.csv").read_text()
    assert all(cell_id in rows for cell_id in OUTSIDE_IDS)

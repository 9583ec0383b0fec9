"""Assignment of GPUs to stage runs, which does not need CUDA."""

import dataclasses
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from configuration.trainer import Accelerator, TrainerConfig
from core.errors import ConfigError
from pipeline.device import compute_device, training_device, uses_gpu
from pipeline.graph import StageNode
from pipeline.launchers.devices import GpuPool, visible_gpus
from pipeline.launchers.local import by_priority
from pipeline.stages.base import Stage

FOUR = TrainerConfig(accelerator=Accelerator.GPU)
TRAINING = cast(Stage, SimpleNamespace(is_distributed=True))
EVALUATION = cast(Stage, SimpleNamespace(is_distributed=False))


def pool_of(
    monkeypatch: pytest.MonkeyPatch, visible: str, *, devices: int = 1, runs_per_gpu: int = 1
) -> GpuPool:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    return GpuPool.of(dataclasses.replace(FOUR, devices=devices, runs_per_gpu=runs_per_gpu))


def fill(pool: GpuPool, stage: Stage) -> list[str]:
    """Assign GPUs to stage runs until none are free."""
    occupied: list[str] = []
    while (gpus := pool.assign(stage, occupied)) is not None:
        occupied.append(gpus)
    return occupied


def test_training_gets_whole_groups_and_other_stages_one_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = pool_of(monkeypatch, "2,3,5,7", devices=2)
    assert fill(pool, TRAINING) == ["2,3", "5,7"]
    assert sorted(fill(pool, EVALUATION)) == ["2", "3", "5", "7"]
    assert fill(pool_of(monkeypatch, "2,3,5,7"), TRAINING) == ["2", "3", "5", "7"]
    odd = pool_of(monkeypatch, "2,3,5,7", devices=3)
    assert fill(odd, TRAINING) == ["2,3,5"]
    assert odd.assign(EVALUATION, ["2,3,5"]) == "7", "the GPU that no group contains"


def test_small_stages_leave_groups_free_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(monkeypatch, "0,1,2,3", devices=2)
    assert pool.assign(EVALUATION, ["2"]) == "3"
    assert pool.assign(TRAINING, ["2"]) == "0,1"
    assert pool.assign(TRAINING, ["0", "2"]) is None
    assert pool.assign(EVALUATION, ["0,1", "2,3"]) is None


def test_runs_share_the_least_occupied_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(monkeypatch, "0,1", runs_per_gpu=2)
    occupied = fill(pool, TRAINING)
    assert occupied == ["0", "1", "0", "1"]
    assert pool.assign(EVALUATION, occupied[1:]) == "0"
    shared = pool_of(monkeypatch, "0,1", devices=2, runs_per_gpu=2)
    assert fill(shared, TRAINING) == ["0,1", "0,1"]
    assert shared.assign(TRAINING, ["0,1", "1"]) is None


def nodes_of(pattern: str) -> list[StageNode]:
    """Return a training for every `t` and an evaluation for every `e`."""
    stages = [TRAINING if letter == "t" else EVALUATION for letter in pattern]
    return [cast(StageNode, SimpleNamespace(stage=stage)) for stage in stages]


@pytest.mark.parametrize(
    ("ready", "group_size", "expected"),
    [
        ("ete", 1, "ete"),
        ("ete", 4, "tee"),
        ("etete", 4, "tteee"),
        ("eteee", 4, "eeeet"),
        ("tt", 4, "tt"),
    ],
)
def test_evaluations_wait_until_they_fill_a_group(
    ready: str, group_size: int, expected: str
) -> None:
    ordered = by_priority(nodes_of(ready), group_size)
    assert "".join("t" if node.stage is TRAINING else "e" for node in ordered) == expected


def test_evaluations_use_every_gpu_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 cells on 4 GPUs: 90 minutes of training on four, 24 of evaluation on one."""
    pool = pool_of(monkeypatch, "0,1,2,3", devices=4)
    waiting = ["t"] * 24
    running: list[tuple[int, str, str]] = []
    now = 0
    while waiting or running:
        for node in by_priority(nodes_of("".join(waiting)), pool.group_size):
            gpus = pool.assign(node.stage, [used for _, used, _ in running])
            if gpus is None:
                break
            kind, minutes = ("t", 90) if node.stage is TRAINING else ("e", 24)
            waiting.remove(kind)
            running.append((now + minutes, gpus, kind))
        now = min(end for end, _, _ in running)
        waiting += ["e" for end, _, kind in running if end == now and kind == "t"]
        running = [run for run in running if run[0] != now]
    assert now == 24 * 90 + 24 * 24 / 4


@pytest.mark.parametrize("value", ["", " ", "-1", "NoDevFiles", "-1,0"])
def test_a_variable_without_devices_hides_all_gpus(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == []
    with pytest.raises(ConfigError, match="only 0 GPUs are visible"):
        GpuPool.of(FOUR)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("value", "names"),
    [("0, 1,", ["0", "1"]), ("3,-1,2", ["3"]), ("GPU-7a,MIG-3b", ["GPU-7a", "MIG-3b"])],
)
def test_devices_before_the_first_invalid_name_are_visible(
    value: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == names


def test_too_few_gpus_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="devices=2, but only 1 GPUs"):
        GpuPool.of(dataclasses.replace(FOUR, devices=2))


def test_cpus_have_no_pool_and_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert GpuPool.of(TrainerConfig()).gpus == ()
    assert (
        compute_device(Accelerator.CPU) == compute_device(Accelerator.AUTO) == torch.device("cpu")
    )
    assert not uses_gpu(Accelerator.AUTO)
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        compute_device(Accelerator.GPU)


def test_weights_are_loaded_on_the_gpu_of_the_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert training_device(Accelerator.CPU).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training_device(Accelerator.GPU).type == "cpu", "Lightning reports the missing GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert training_device(Accelerator.AUTO) == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert training_device(Accelerator.CUDA) == torch.device("cuda", 3)
    assert training_device(Accelerator.CPU).type == "cpu"

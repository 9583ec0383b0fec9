"""Assignment of GPUs to stage runs, which does not need CUDA."""

import dataclasses

import pytest
import torch

from configuration.trainer import Accelerator, TrainerConfig
from core.errors import ConfigError
from pipeline.device import compute_device, uses_gpu
from pipeline.launchers.devices import GpuSlots, visible_gpus

FOUR = TrainerConfig(accelerator=Accelerator.GPU)


def test_gpus_are_divided_into_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert GpuSlots.of(FOUR).gpus == ("2", "3", "5", "7")
    assert GpuSlots.of(dataclasses.replace(FOUR, devices=2)).gpus == ("2,3", "5,7")
    assert GpuSlots.of(dataclasses.replace(FOUR, devices=3)).gpus == ("2,3,5",)
    shared = GpuSlots.of(dataclasses.replace(FOUR, devices=4, runs_per_gpu=2))
    assert shared.gpus == ("2,3,5,7", "2,3,5,7")


def test_a_slot_is_assigned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slots = GpuSlots.of(dataclasses.replace(FOUR, runs_per_gpu=2))
    taken: list[str] = []
    while (place := slots.find_free(taken)) is not None:
        taken.append(place)
    assert taken == ["0", "1", "0", "1"]
    assert slots.find_free(taken[1:]) == "0"


@pytest.mark.parametrize("value", ["", " ", "-1", "NoDevFiles", "-1,0"])
def test_a_variable_without_devices_hides_all_gpus(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == []
    with pytest.raises(ConfigError, match="only 0 GPUs are visible"):
        GpuSlots.of(FOUR)
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
        GpuSlots.of(dataclasses.replace(FOUR, devices=2))


def test_cpus_have_no_slots_and_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert GpuSlots.of(TrainerConfig()).gpus == ()
    assert GpuSlots.of(TrainerConfig()).find_free(["", ""]) is None, "stage runs without a slot"
    assert (
        compute_device(Accelerator.CPU) == compute_device(Accelerator.AUTO) == torch.device("cpu")
    )
    assert not uses_gpu(Accelerator.AUTO)
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        compute_device(Accelerator.GPU)

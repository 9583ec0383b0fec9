"""Stage runs and the GPUs of a machine; CUDA itself is not needed to deal them out."""

import dataclasses

import pytest
import torch

from configuration.trainer import TrainerConfig
from core.errors import ConfigError
from pipeline.device import compute_device, uses_gpu
from pipeline.launchers.devices import GpuSlots

FOUR = TrainerConfig(accelerator="gpu")


def test_gpus_are_dealt_out_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5,7")
    assert GpuSlots.of(FOUR).places == ("2", "3", "5", "7")
    assert GpuSlots.of(dataclasses.replace(FOUR, devices=2)).places == ("2,3", "5,7")
    assert GpuSlots.of(dataclasses.replace(FOUR, devices=3)).places == ("2,3,5",)
    shared = GpuSlots.of(dataclasses.replace(FOUR, devices=4, runs_per_gpu=2))
    assert shared.places == ("2,3,5,7", "2,3,5,7")


def test_a_place_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    slots = GpuSlots.of(dataclasses.replace(FOUR, runs_per_gpu=2))
    taken: list[str] = []
    while (place := slots.free(taken)) is not None:
        taken.append(place)
    assert taken == ["0", "1", "0", "1"]
    assert slots.free(taken[1:]) == "0"


def test_too_few_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match="devices=2, but 1 GPUs"):
        GpuSlots.of(dataclasses.replace(FOUR, devices=2))


def test_a_cpu_has_no_places_and_a_missing_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert GpuSlots.of(TrainerConfig()).places == ()
    assert GpuSlots.of(TrainerConfig()).free(["", ""]) is None, "stage runs without a place"
    assert compute_device("cpu") == compute_device("auto") == torch.device("cpu")
    assert not uses_gpu("auto")
    with pytest.raises(ConfigError, match="torch sees no GPU"):
        compute_device("gpu")

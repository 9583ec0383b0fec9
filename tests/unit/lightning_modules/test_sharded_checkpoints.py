"""Checkpoints of sharded states: copied once, written by a thread that does not touch CUDA."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import default_planner, state_dict_loader

from callbacks.checkpoints import _StateCapture
from lightning_modules.strategy import ShardedStrategy, write_shards

pytestmark = pytest.mark.gpu_path


@pytest.fixture
def group(tmp_path: Path) -> Iterator[dist.ProcessGroup]:
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield dist.new_group(backend="gloo")
    dist.destroy_process_group()


@pytest.fixture
def guarded_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there are GPUs, and let every use of them fail."""

    def use() -> None:
        raise AssertionError(f"{threading.current_thread().name} uses CUDA")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", use)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: use())


def run_in_thread(work: Callable[[], None]) -> None:
    """Run a function as the checkpoint callback does, and raise its error here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=run, name="checkpoint_0")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@pytest.mark.usefixtures("guarded_cuda")
def test_the_thread_that_writes_shards_does_not_touch_cuda(
    group: dist.ProcessGroup, tmp_path: Path
) -> None:
    parts = {"state_dict": {"a": torch.arange(5.0)}, "optimizer_0": {"step": torch.tensor(3)}}
    run_in_thread(lambda: write_shards(parts, tmp_path / "saved", group))
    found = {"state_dict": {"a": torch.zeros(5)}, "optimizer_0": {"step": torch.tensor(0)}}
    state_dict_loader.load(found, checkpoint_id=tmp_path / "saved", process_group=group)
    assert torch.equal(found["state_dict"]["a"], torch.arange(5.0))
    assert found["optimizer_0"]["step"] == 3


def test_no_plans_are_merged(
    group: dist.ProcessGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merging takes two minutes for 1,024 ranks."""

    def merge(*_: Any) -> None:
        raise AssertionError("plans are merged")

    monkeypatch.setattr(default_planner, "create_default_global_save_plan", merge)
    states = [torch.zeros(6), torch.arange(6.0), torch.ones(3), torch.arange(3.0)]
    for number, state in enumerate(states):
        path = tmp_path / str(number)
        write_shards({"weights": {"a": state}, "step": number}, path, group)
        found: dict[str, Any] = {"weights": {"a": torch.empty_like(state)}, "step": -1}
        state_dict_loader.load(found, checkpoint_id=path, process_group=group)
        assert torch.equal(found["weights"]["a"], state)
        assert found["step"] == number


@pytest.mark.usefixtures("guarded_cuda")
def test_the_thread_that_writes_one_file_does_not_touch_cuda(tmp_path: Path) -> None:
    capture = _StateCapture()
    capture.save_checkpoint({"state_dict": {"a": torch.ones(3)}}, tmp_path / "state")
    write, num_bytes = capture.take()
    assert (num_bytes, write is None) == (12, False)
    run_in_thread(write or (lambda: None))
    assert torch.equal(torch.load(tmp_path / "state")["state_dict"]["a"], torch.ones(3))


def test_a_state_that_is_a_copy_already_is_not_copied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights on a GPU arrive as copies on the CPU; weights on the CPU are the weights."""
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4)).sum().backward()
    optimizer.step()
    strategy = ShardedStrategy(1, process_group_backend="gloo", timeout=timedelta(seconds=9))
    strategy._model, strategy._optimizers = model, [optimizer]
    monkeypatch.setattr(strategy, "broadcast", lambda value: value)

    def take(state: dict[str, Any], moments: dict[str, Any]) -> dict[str, Any]:
        checkpoint = {"state_dict": state, "optimizer_states": [moments], "step": 7}
        strategy.save_checkpoint(checkpoint, tmp_path / "unused")
        assert strategy._taken is not None
        return strategy._taken[0]

    moment = optimizer.state[model.weight]["exp_avg"]
    live = take({"weight": model.weight.detach()}, {"exp_avg": moment})
    assert live["state_dict"]["weight"].data_ptr() != model.weight.data_ptr()
    assert live["optimizer_0"]["exp_avg"].data_ptr() != moment.data_ptr()
    copies = {"weight": model.weight.detach().clone()}, {"exp_avg": moment.clone()}
    taken = take(*copies)
    assert taken["state_dict"]["weight"].data_ptr() == copies[0]["weight"].data_ptr()
    assert taken["optimizer_0"]["exp_avg"].data_ptr() == copies[1]["exp_avg"].data_ptr()

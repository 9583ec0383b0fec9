"""Faults of checkpoints and their storage: the previous checkpoint is kept, faults are reported.

The table in docs/reference/data-format.md names these tests.
"""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Callback

from callbacks.checkpoint_files import latest_checkpoint
from callbacks.checkpoint_interval import EverySteps
from callbacks.checkpoints import AtomicCheckpoint
from callbacks.preemption import Preemption
from core.errors import CheckpointError, PreemptedError
from core.io.sealed_folder import publish_folder, seal_folder
from core.process.stop import StopFlag
from pipeline.trainer import _cluster
from tests.support import checkpoint_child
from tests.support import small_world as worlds
from tests.support.checkpoint_child import fit

pytestmark = pytest.mark.slow

NUM_KILLS = 20
SHARDS = (".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt")
REPO = Path(__file__).parents[3]


def save_files(folder: Path, step: int, *, is_sharded: bool) -> Path:
    """Write a sealed checkpoint with unique content."""
    names = [f"checkpoint.ckpt/{name}" for name in SHARDS] if is_sharded else ["checkpoint.ckpt"]
    temporary, final = folder / f".step={step:08d}.tmp", folder / f"step={step:08d}"
    for name in names:
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(f"{name}{step}").randbytes(5000))
    seal_folder(temporary, step=step)
    shutil.rmtree(final, ignore_errors=True)
    publish_folder(temporary, final)
    return final


def truncate(path: Path, rng: random.Random) -> None:
    os.truncate(path, rng.randrange(path.stat().st_size))


def flip(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def remove(path: Path, rng: random.Random) -> None:
    del rng
    path.unlink()


def grow(path: Path, rng: random.Random) -> None:
    path.write_bytes(path.read_bytes() + rng.randbytes(3))


@pytest.mark.parametrize("is_sharded", [False, True])
@pytest.mark.parametrize("damage", [truncate, flip, remove, grow])
def test_damage_of_any_file_is_detected(
    tmp_path: Path,
    damage: Callable[[Path, random.Random], None],
    caplog: pytest.LogCaptureFixture,
    *,
    is_sharded: bool,
) -> None:
    save_files(tmp_path, 1, is_sharded=is_sharded)
    names = [p.relative_to(tmp_path / "step=00000001") for p in tmp_path.rglob("*") if p.is_file()]
    assert len(names) == (len(SHARDS) + 1 if is_sharded else 2)
    for number, name in enumerate(names * 8):
        newest = save_files(tmp_path, 2, is_sharded=is_sharded)
        damage(newest / name, random.Random(number))
        caplog.clear()
        saved = latest_checkpoint(tmp_path)
        assert saved is not None, name
        assert saved.step == 1, (name, number)
        assert "step=00000002 is damaged" in caplog.text
        assert newest.exists(), "evidence stays"


def slow_save(seconds: float) -> Callable[..., None]:
    real = torch.save

    def save(state: Any, path: Path) -> None:
        time.sleep(seconds)
        real(state, path)

    return save


def full_disk(after_bytes: int, failures: list[int]) -> Callable[..., None]:
    """Return a `torch.save` that fails with a full disk as long as `failures` is not empty."""
    real = torch.save

    def save(state: Any, path: Path) -> None:
        real(state, path)
        if failures:
            failures.pop()
            os.truncate(path, after_bytes)
            raise OSError(errno.ENOSPC, "No space left on device")

    return save


def test_a_real_size_limit_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    """The kernel rejects the bytes (RLIMIT_FSIZE), and torch does not abort."""
    fit(tmp_path, num_steps=2, every=2)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    process = subprocess.run(
        [sys.executable, "-m", checkpoint_child.__name__, str(tmp_path), "20"],
        preexec_fn=limit,
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 1, process.stderr
    assert "UnsavedError" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step=00000002"]


class _Unmount(Callback):
    """Removes the storage before a step."""

    def __init__(self, folder: Path, step: int) -> None:
        self.folder, self.step = folder, step

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.folder.rename(self.folder.with_name("away"))


def test_lost_storage_is_reported_and_nothing_is_written_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    with pytest.raises(CheckpointError, match=r"3 consecutive checkpoints.*repair the storage"):
        fit(folder, num_steps=20, every=2, extra=[_Unmount(folder, 3)])
    assert not folder.exists(), "the disk below a lost mount must not be filled"
    saved = latest_checkpoint(tmp_path / "away")
    assert saved is not None
    assert saved.step == 2


def test_an_error_other_than_storage_ends_training_immediately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ZeroDivisionError("a fault in the writer")

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(CheckpointError, match="ZeroDivisionError: a fault in the writer"):
        fit(tmp_path, num_steps=20, every=2)


def test_a_stop_saves_even_while_a_save_is_in_flight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", slow_save(0.5))
    checkpoint = AtomicCheckpoint(tmp_path, cadence=EverySteps(2), background_above_bytes=0)
    with pytest.raises(PreemptedError, match="stopped at step 3, saved"):
        fit_with(checkpoint, StopFlag(), stop_at=3)
    saved = latest_checkpoint(tmp_path)
    assert saved is not None
    assert saved.step == 3


def test_a_stop_with_a_full_disk_reports_the_saved_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = AtomicCheckpoint(tmp_path, cadence=EverySteps(2))
    flag = StopFlag()

    class FillAtStep3(Callback):
        def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
            if trainer.global_step == 2:
                monkeypatch.setattr(torch, "save", full_disk(0, [1] * 9))

    with pytest.raises(PreemptedError, match=r"could not be saved.*last saved step: 2"):
        fit_with(checkpoint, flag, stop_at=3, extra=[FillAtStep3()])


class _StopAt(Callback):
    def __init__(self, flag: StopFlag, step: int) -> None:
        self.flag, self.step = flag, step

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.flag.is_set = self.flag.is_set or trainer.global_step >= self.step


def fit_with(
    checkpoint: AtomicCheckpoint,
    flag: StopFlag,
    *,
    stop_at: int,
    extra: list[Callback] = [],  # noqa: B006
) -> None:
    callbacks = [*extra, checkpoint, _StopAt(flag, stop_at), Preemption(flag, checkpoint)]
    checkpoint_child.run(callbacks, checkpoint.folder, num_steps=20)


def test_killed_at_any_moment_of_a_save(tmp_path: Path) -> None:
    """A child process saves continuously; a checkpoint it reported is never lost."""
    rng, reported = random.Random(5), 0
    for attempt in range(NUM_KILLS):
        log = tmp_path / f"log{attempt}"
        words = (str(tmp_path / "c"), "1000000")
        process = worlds.start(REPO, *words, module=checkpoint_child.__name__, log=log)
        deadline = time.monotonic() + 120
        while "saved" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.random() * 0.3)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        lines = [line for line in log.read_text().split("\n")[:-1] if line.startswith("saved ")]
        assert int(lines[0].split()[1]) > reported, "it resumed at the newest checkpoint"
        reported = int(lines[-1].split()[1])
        saved = latest_checkpoint(tmp_path / "c")
        assert saved is not None
        assert saved.step >= reported
        assert torch.load(saved.path, weights_only=True)["global_step"] == saved.step


def test_lightning_does_not_requeue_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would save inside a signal handler; ours exits 143 and the job is requeued."""
    monkeypatch.setattr(SLURMEnvironment, "detect", staticmethod(lambda: True))
    assert isinstance(_cluster(), LightningEnvironment)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert isinstance(_cluster(), TorchElasticEnvironment)

"""A checkpoint is complete or absent: damaged ones are detected, reported and skipped."""

import logging
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from callbacks.checkpoint_interval import EverySteps
from callbacks.checkpoints import AtomicCheckpoint, latest_checkpoint
from core.errors import CheckpointError, ConfigError
from core.io.sealed_folder import find_damage, seal_folder

NUM_STEPS, EVERY_N_STEPS = 7, 2


class Walk(lightning.LightningModule):
    """A minimal training module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, *, num_steps: int = NUM_STEPS, keep: int = 2, **settings: int) -> None:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=num_steps,
        callbacks=[
            AtomicCheckpoint(folder, cadence=EverySteps(EVERY_N_STEPS), keep=keep, **settings)
        ],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(0)
    trainer.fit(Walk(), DataLoader(torch.ones(32, 2), batch_size=2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with checkpoints of steps 4 and 6."""
    train(tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def _flip_bit(newest: Path) -> None:
    content = bytearray((newest / "checkpoint.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (newest / "checkpoint.ckpt").write_bytes(content)


def _truncate(newest: Path) -> None:
    content = (newest / "checkpoint.ckpt").read_bytes()
    (newest / "checkpoint.ckpt").write_bytes(content[:-100])


def _unseal(newest: Path) -> None:
    (newest / "complete.json").unlink()


def _break_seal(newest: Path) -> None:
    (newest / "complete.json").write_text('{"step": 6, "sha')


def _empty_seal(newest: Path) -> None:
    (newest / "complete.json").write_text("{}")


def _remove_state(newest: Path) -> None:
    (newest / "checkpoint.ckpt").unlink()


DAMAGES = (_flip_bit, _truncate, _unseal, _break_seal, _empty_seal, _remove_state)


def test_the_newest_complete_checkpoint_is_found(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["step=00000004", "step=00000006"]
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert saved.step == 6
    assert torch.load(saved.path, weights_only=True)["global_step"] == 6


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(
    folder: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(folder / "step=00000006")
    with caplog.at_level(logging.WARNING):
        saved = latest_checkpoint(folder)
    assert saved is not None
    assert saved.step == 4
    assert "step=00000006 is damaged" in caplog.text
    assert (folder / "step=00000006").exists(), "evidence stays"


def test_training_restarts_without_a_complete_checkpoint(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        _truncate(path)
    assert latest_checkpoint(folder) is None
    assert latest_checkpoint(tmp_path / "nowhere") is None


def test_files_of_an_incomplete_save_are_ignored(folder: Path) -> None:
    torn = folder / ".step=00000008.tmp"
    torn.mkdir()
    (torn / "checkpoint.ckpt").write_bytes(b"half")
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert saved.step == 6
    train(folder, num_steps=8)
    assert not list(folder.glob(".step=*"))
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert saved.step == 8


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_does_not_block_its_own_step(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    """The resumed run repeats that step and must be able to save it."""
    damage(folder / "step=00000006")
    train(folder)
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert saved.step == 6


@pytest.mark.parametrize("keep", [1, 3])
def test_the_last_few_are_kept(tmp_path: Path, keep: int) -> None:
    train(tmp_path, num_steps=10, keep=keep)
    steps = [int(path.name.split("=")[1]) for path in sorted(tmp_path.iterdir())]
    assert steps == [10, 8, 6][:keep][::-1]


def test_an_interval_of_zero_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="interval 0"):
        AtomicCheckpoint(tmp_path, cadence=EverySteps(0))


def test_a_damaged_later_checkpoint_does_not_replace_a_new_one(folder: Path) -> None:
    """With two damaged checkpoints the run restarts, and its first save must be kept."""
    for step in (4, 6):
        _truncate(folder / f"step={step:08d}")
    train(folder, num_steps=2)
    saved = latest_checkpoint(folder)
    assert saved is not None
    assert saved.step == 2
    assert [path.name for path in folder.iterdir()] == ["step=00000002"]


def test_milestones_stay(tmp_path: Path) -> None:
    train(tmp_path, num_steps=14, keep=1, keep_every_n_steps=4)
    steps = [int(path.name.split("=")[1]) for path in sorted(tmp_path.iterdir())]
    assert steps == [4, 8, 12, 14]


def test_a_state_saved_in_the_background_is_that_of_its_step(tmp_path: Path) -> None:
    """Parameters change while the thread writes; the copy does not."""
    for name, size in (("at_once", 1 << 30), ("beside", 0)):
        train(tmp_path / name, keep=3, background_above_bytes=size)
    for step in (2, 4, 6):
        first, second = (
            torch.load(tmp_path / name / f"step={step:08d}" / "checkpoint.ckpt", weights_only=True)
            for name in ("at_once", "beside")
        )
        torch.testing.assert_close(second["state_dict"], first["state_dict"], rtol=0, atol=0)
        assert second["global_step"] == first["global_step"] == step
    assert latest_checkpoint(tmp_path / "beside") is not None


@pytest.mark.parametrize("size", [0, 1 << 30])
def test_a_full_disk_loses_no_saved_checkpoint(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, num_steps=4, background_above_bytes=size)
    write = torch.save
    failures = iter([True, True])

    def save(state: object, path: Path) -> None:
        if next(failures, False):
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        write(state, path)

    monkeypatch.setattr(torch, "save", save)
    train(tmp_path, num_steps=9, background_above_bytes=size)  # two saves fail
    assert caplog.text.count("No space left on device") == 2
    assert not list(tmp_path.glob(".step=*"))
    saved = latest_checkpoint(tmp_path)
    assert saved is not None
    assert saved.step == 8


def test_the_third_consecutive_failure_is_fatal_and_keeps_old_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path, num_steps=4)

    def full(state: object, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(CheckpointError, match="3 consecutive checkpoints"):
        train(tmp_path, num_steps=20)
    saved = latest_checkpoint(tmp_path)
    assert saved is not None
    assert saved.step == 4


def _sharded(folder: Path) -> Path:
    """Write the files of a two-rank state."""
    state = folder / "step=00000006" / "checkpoint.ckpt"
    state.mkdir(parents=True)
    for name in (".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"):
        (state / name).write_bytes(name.encode() * 9)
    seal_folder(folder / "step=00000006", step=6)
    return state


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "__1_0.distcp", "meta.pt"])
def test_every_file_of_a_sharded_state_counts(tmp_path: Path, name: str) -> None:
    state = _sharded(tmp_path)
    assert find_damage(state.parent) is None
    content = (state / name).read_bytes()
    (state / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert find_damage(state.parent) == f"checkpoint.ckpt/{name}: checksum differs"
    (state / name).write_bytes(content[:-1])
    assert find_damage(state.parent) == (
        f"checkpoint.ckpt/{name}: {len(content) - 1} bytes instead of {len(content)}"
    )
    (state / name).unlink()
    assert find_damage(state.parent) == f"checkpoint.ckpt/{name}: No such file or directory"

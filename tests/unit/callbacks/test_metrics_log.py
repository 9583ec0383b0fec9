"""Metrics log: one writer, flushed lines, and no step twice after a resume."""

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from callbacks.metrics_log import JsonlLogger
from core.errors import DataError
from core.io.jsonl import read_jsonl


def _steps(folder: Path) -> list[tuple[int, list[str]]]:
    return [(x["step"], sorted(x["metrics"])) for x in read_jsonl(folder / "metrics.jsonl")]


def test_lines_are_written_immediately(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path, total_steps=10)
    logger.log_metrics({"train/loss": 2.5}, step=1)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert (line["step"], line["metrics"]) == (1, {"train/loss": 2.5})
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert progress == {"step": 1, "total": 10, "metrics": {"train/loss": 2.5}}


def test_nothing_is_written_without_metrics(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "stage")
    logger.finalize("success")
    assert not (tmp_path / "stage").exists()


def test_non_finite_values_stay_valid_json(tmp_path: Path) -> None:
    JsonlLogger(tmp_path).log_metrics({"a": float("nan"), "b": float("-inf")}, step=0)
    metrics = read_jsonl(tmp_path / "metrics.jsonl")[0]["metrics"]
    assert metrics == {"a": "nan", "b": "-inf"}
    assert float(metrics["b"]) == float("-inf")


def test_a_resume_removes_the_steps_it_repeats(tmp_path: Path) -> None:
    before = JsonlLogger(tmp_path)
    for step in range(8):
        before.log_metrics({"loss": float(step)}, step=step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "tim')  # killed in the middle of a line

    JsonlLogger(tmp_path).log_metrics({"loss": 40.0}, step=4)

    assert [step for step, _ in _steps(tmp_path)] == [0, 1, 2, 3, 4]
    assert read_jsonl(tmp_path / "metrics.jsonl")[-1]["metrics"] == {"loss": 40.0}


def test_a_resume_keeps_other_metrics_of_the_same_step(tmp_path: Path) -> None:
    JsonlLogger(tmp_path).log_metrics({"loss": 1.0}, step=4)
    JsonlLogger(tmp_path).log_metrics({"epochs": 0.5}, step=4)
    assert _steps(tmp_path) == [(4, ["loss"]), (4, ["epochs"])]


def test_a_second_fit_with_the_same_logger_continues(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path)
    logger.log_metrics({"loss": 1.0}, step=3)
    logger.finalize("success")
    logger.log_metrics({"loss": 0.5}, step=4)
    assert [step for step, _ in _steps(tmp_path)] == [3, 4]


def test_progress_is_written_at_most_five_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(x / 100 for x in range(10_000))
    monkeypatch.setattr("callbacks.metrics_log.time.monotonic", lambda: next(clock))
    written: list[int] = []
    original = JsonlLogger._write_progress
    monkeypatch.setattr(
        JsonlLogger, "_write_progress", lambda self: (written.append(self._step), original(self))
    )
    logger = JsonlLogger(tmp_path)
    for step in range(90):  # about one simulated second
        logger.log_metrics({"loss": 0.0}, step=step)
    assert 3 <= len(written) <= 6
    logger.finalize("success")
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 89


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    JsonlLogger(tmp_path).log_metrics({"loss": 1.0}, step=0)
    assert not list(tmp_path.iterdir())


def test_a_damaged_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("nonsense\n")
    with pytest.raises(DataError, match="line 1 is damaged"):
        read_jsonl(tmp_path / "metrics.jsonl")


class _Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = (self.weight - batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_logs_each_step_once(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "align" / "abc", total_steps=4)
    trainer = pl.Trainer(
        max_steps=4, logger=logger, log_every_n_steps=1, accelerator="cpu",
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(_Line(), torch.utils.data.DataLoader(torch.ones(8, 1), batch_size=2))
    assert [step for step, _ in _steps(logger.folder)] == [0, 1, 2, 3]
    assert (logger.name, logger.version) == ("align", "abc")


@contextlib.contextmanager
def _file_size_limit(num_bytes: int) -> Iterator[None]:
    """Let writes beyond a size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_does_not_stop_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = JsonlLogger(tmp_path, total_steps=2)
    with _file_size_limit(4096):
        for step in range(100):
            logger.log_metrics({"train/loss": 1.0}, step=step)
    logger.log_metrics({"train/loss": 2.0}, step=100)
    logger.finalize("success")
    steps = [step for step, _ in _steps(tmp_path)]
    assert steps == list(range(101)), "what was not written waits until there is room"
    assert json.loads((tmp_path / "progress.json").read_text())["step"] == 100
    (record,) = caplog.records
    assert "metrics.jsonl can't be written (File too large)" in record.getMessage()

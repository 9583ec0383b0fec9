"""The worker of a stage run, which also records the samples that each rank trains on.

python -m tests.support.servers.recording_worker FOLDER

The training itself is the real one. Every rank appends one line per step to a file of its own in
FOLDER/records, so that the lines of a killed attempt can be read.
"""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from core.samples import StepBatch
from lightning_modules.vlm_module import VlmModule
from pipeline.launchers import worker
from pipeline.store.store import StageFolder

MODULE = "tests.support.servers.recording_worker"
_RECORDS = "records"
Ref: TypeAlias = tuple[int, str, str, int]
"""Position, source, key and loss tokens of a sample."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RecordedStep:
    """The samples of one step in one attempt, over all of its ranks."""

    step: int
    world_size: int
    shares: tuple[tuple[Ref, ...], ...]
    """Samples of each rank that reached the step."""

    @property
    def is_complete(self) -> bool:
        """True if every rank reached the step."""
        return len(self.shares) == self.world_size

    @property
    def global_batch(self) -> list[Ref]:
        """Samples of all ranks in order of position."""
        return sorted(ref for share in self.shares for ref in share)


def read_attempts(folder: Path) -> list[dict[int, RecordedStep]]:
    """Return the recorded steps of every attempt at a stage run, the oldest attempt first."""
    attempts: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((folder / _RECORDS).glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")[:-1]  # a kill truncates the last line
        attempts.setdefault(path.name.split("-")[0], []).extend(map(json.loads, lines))
    return [_join_ranks(attempts[number]) for number in sorted(attempts, key=int)]


def _join_ranks(lines: list[dict[str, Any]]) -> dict[int, RecordedStep]:
    steps: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        steps.setdefault(line["step"], []).append(line)
    return {
        step: RecordedStep(
            step=step,
            world_size=of_step[0]["world_size"],
            shares=tuple(
                tuple((ref[0], ref[1], ref[2], ref[3]) for ref in line["refs"]) for line in of_step
            ),
        )
        for step, of_step in sorted(steps.items())
    }


def _recorded(step: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(step)
    def training_step(self: VlmModule, batch: StepBatch, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        refs = [
            [ref.position, ref.source, ref.key, ref.num_loss_tokens]
            for micro_batch in batch.micro_batches
            for ref in micro_batch.samples
        ]
        line = {"step": batch.step, "world_size": self.trainer.world_size, "refs": refs}
        folder = Path(str(self.trainer.default_root_dir)) / _RECORDS
        with _record_file(folder, self.global_rank).open("ab", buffering=0) as file:
            file.write(json.dumps(line).encode() + b"\n")

    return training_step


@functools.cache
def _record_file(folder: Path, rank: int) -> Path:
    """Return the file of a rank in this attempt, which rank 0 has counted before it trains."""
    folder.mkdir(exist_ok=True)
    return folder / f"{StageFolder(folder.parent).read_status().attempts}-{rank}.jsonl"


if __name__ == "__main__":
    VlmModule.training_step = _recorded(VlmModule.training_step)  # type: ignore[method-assign]
    worker.main()

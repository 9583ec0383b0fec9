"""Records of stage runs, finished or not, as read from their folders in the store.

The report, the tracker and the model card all read these records, so that they show the same
values. A stage folder may be incomplete: a stage that has never started is in the state `waiting`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configuration.axes import AxisValue
from core.errors import DataError
from core.io.reading import reading
from datamodules.batches.bad_samples import SUMMARY_NAME
from datamodules.batches.target_data import TARGET_DATA_FILE, TargetData
from evaluation import canaries, retention
from pipeline.store.notes import read_json, read_note
from pipeline.store.registration import Registration
from pipeline.store.states import State


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One metric of an evaluation, in percent, with its interval and its baselines."""

    value: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    num_images: int | None = None
    majority: float | None = None
    blind: float | None = None
    chance: float | None = None
    beats_blind: float | None = None
    """p-value of the test that the score exceeds the one without the image."""
    beats_majority: float | None = None
    """p-value of the test that the score exceeds the best constant reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """Contents of one stage folder."""

    folder: Path
    kind: str
    address: str
    title: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    params: Mapping[str, AxisValue] = field(default_factory=dict)
    upstream: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    state: State = State.WAITING
    started: float | None = None
    ended: float | None = None
    wall_s: float = 0.0
    attempts: int = 0
    error: str = ""
    failures: tuple[Mapping[str, Any], ...] = ()
    """All failures, oldest first (`pipeline.store.retry_policy.Failure`)."""
    max_rss_mb: float | None = None
    steps: int = 0
    scores: Mapping[str, Score] = field(default_factory=dict)
    registrations: tuple[Registration, ...] = ()
    """Registrations of hypotheses under which the stage run was started, oldest first."""
    left_out: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Source -> fault -> samples that the training skipped (`batches.bad_samples`)."""

    target_data: TargetData | None = None
    """Amounts of target-language data of a training; None if it has none, or is not done."""

    canaries: Mapping[str, Any] = field(default_factory=dict)
    """Sanity checks of an evaluation (`evaluation.canaries`); empty if it made none."""

    retention: Mapping[str, Any] = field(default_factory=dict)
    """Task -> score of the language model without images (`evaluation.retention`)."""

    @property
    def predictions(self) -> Path:
        """Path of an evaluation's per-item scores; the file may not exist."""
        return self.folder / "result" / "predictions.parquet"


def load_stage(folder: Path) -> StageRecord:
    """Read one stage folder; fields whose files do not exist yet keep their defaults."""
    about = read_json(folder / "stage.json", default={})
    status = read_note(folder / "status.json")
    progress = read_note(folder / "progress.json")
    metrics = _read_result(folder / "result" / "metrics.json", ("metrics",)).get("metrics", {})
    return StageRecord(
        folder=folder,
        kind=about.get("kind", folder.parent.name),
        address=about.get("address", folder.name),
        title=about.get("title", ""),
        config=about.get("config", {}),
        params=about.get("params", {}),
        upstream=about.get("upstream", {}),
        data=about.get("data", {}),
        state=State(status.get("state", State.WAITING)),
        started=status.get("started") or None,
        ended=status.get("ended") or None,
        wall_s=status.get("wall_s") or 0.0,
        attempts=status.get("attempts") or 0,
        error=status.get("error") or "",
        failures=tuple(status.get("failures") or ()),
        max_rss_mb=status.get("max_rss_mb") or None,
        steps=progress.get("step") or 0,
        scores={name: _parse_score(score) for name, score in metrics.items()},
        registrations=tuple(map(Registration.from_json, about.get("registrations", ()))),
        left_out=read_json(folder / "result" / SUMMARY_NAME, default={}),
        retention=read_json(folder / "result" / retention.RETENTION_FILE, default={}),
        target_data=_read_target_data(folder / "result" / TARGET_DATA_FILE),
        canaries=_read_result(folder / "result" / canaries.CANARIES_FILE, ("groups",)),
    )


def _read_result(path: Path, required: Sequence[str]) -> dict[str, Any]:
    """Read a JSON object of a result that has some keys; {} if the result has no such file."""
    content = read_json(path, default={})
    if missing := [name for name in required if path.is_file() and name not in content]:
        raise DataError(f"{path} has no {missing[0]}; delete the result to run the stage again")
    return content


def _read_target_data(path: Path) -> TargetData | None:
    raw = read_json(path, default={})
    with reading(path, fix="delete the result to run the stage again"):
        return TargetData.from_json(raw) if raw else None


def _parse_score(raw: Mapping[str, Any] | float) -> Score:
    if not isinstance(raw, Mapping):
        return Score(value=float(raw))
    known = {name: raw.get(name) for name in Score.__dataclass_fields__ if name != "value"}
    return Score(value=float(raw["value"]), **known)

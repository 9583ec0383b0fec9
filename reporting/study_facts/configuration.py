"""Configuration and amounts of a grid, as a reader of its report needs them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from configuration.axes import AxisValue, flatten
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from configuration.source_places import with_language_tasks
from core.config import load_config
from core.errors import ConfigError
from pipeline.store.records import StageRecord
from reporting.records import GridRecord
from reporting.sections.tables import format_duration

_CONFIGS = Path("configs")
_TRAININGS = ("align", "instruct")
_LOSS = "train/loss"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChangedField:
    """A field that has another value than in the profile."""

    name: str
    value: str
    profile_value: str
    is_override: bool
    """Whether the command set it; otherwise the experiment did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """An amount of the whole grid."""

    name: str
    text: str


def changed_fields(grid: GridRecord) -> list[ChangedField]:
    """Return the fields that all cells share and whose value is not that of the profile.

    The profile is that of the working directory; without it, only overrides of the command are
    known.
    """
    path = _CONFIGS / f"{grid.profile}.yaml"
    profile: dict[str, AxisValue] = {}
    if path.is_file():
        try:
            profile = _profile_values(path, grid)
        except ConfigError:  # a profile of another version
            profile = {}
    names = [name for name in grid.common if name in profile and grid.common[name] != profile[name]]
    return [
        ChangedField(
            name=name,
            value=_to_text(grid.common[name]),
            profile_value=_to_text(profile[name]) if name in profile else "",
            is_override=name in grid.changed,
        )
        for name in dict.fromkeys([*grid.changed, *names])
    ]


def _profile_values(path: Path, grid: GridRecord) -> dict[str, AxisValue]:
    """Return the values of a profile, with the retention tasks of the languages of the grid."""
    profile = load_config(RunConfig, path)
    names = ("languages.base", "languages.target", "data.folder")
    same = replace_fields(
        profile, {name: grid.common[name] for name in names if name in grid.common}
    )
    tasks = flatten(with_language_tasks(same)[0])["retention.tasks"]
    return dict(flatten(profile)) | {"retention.tasks": tasks}


def study_amounts(grid: GridRecord) -> list[Amount]:
    """Return data sizes, losses and times of the stage runs of a grid."""
    stages = grid.stages()
    found = []
    for kind in dict.fromkeys(stage.kind for stage in stages):
        runs = [stage for stage in stages if stage.kind == kind and stage.wall_s]
        if not runs:
            continue
        times = [stage.wall_s for stage in runs]
        text = f"{format_duration(sum(times))} in {len(runs)} stage runs"
        if len(runs) > 1:
            text += f", median {format_duration(median(times))}"
        if kind in _TRAININGS:
            text += _describe_training(runs)
        found.append(Amount(name=kind, text=text))
    total = sum(stage.wall_s for stage in stages)
    found.append(Amount(name="all stage runs", text=format_duration(total)))
    found.append(Amount(name="energy", text="not measured"))
    return found


def _describe_training(runs: Sequence[StageRecord]) -> str:
    steps = [run.steps for run in runs if run.steps]
    losses = [loss for run in runs if (loss := final_loss(run.folder)) is not None]
    parts = []
    if steps:
        parts.append(f"{_span(steps, '{:,.0f}')} steps")
    if losses:
        parts.append(f"last logged loss {_span(losses, '{:.3f}')}")
    data = [run.target_data for run in runs if run.target_data is not None]
    if data:
        images = [one.target_images.num_different + one.base_images.num_different for one in data]
        tokens = [
            one.target_images.num_loss_tokens
            + one.base_images.num_loss_tokens
            + one.target_texts.num_loss_tokens
            for one in data
        ]
        parts.append(f"{_span(images, '{:,.0f}')} different samples with images")
        parts.append(f"{_span(tokens, '{:,.0f}')} loss tokens in both languages")
    return "".join(f"; {part}" for part in parts)


def final_loss(folder: Path) -> float | None:
    """Return the last training loss in the log of a stage run; None if it has none."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return None
    for line in reversed(path.read_text(encoding="utf-8").splitlines()):
        try:
            metrics = json.loads(line).get("metrics", {})
        except (json.JSONDecodeError, AttributeError):  # the last line of a killed process
            continue
        if _LOSS in metrics:
            return float(metrics[_LOSS])
    return None


def _span(numbers: Sequence[float], form: str) -> str:
    texts = dict.fromkeys(form.format(number) for number in (min(numbers), max(numbers)))
    return " to ".join(texts)


def _to_text(value: AxisValue) -> str:
    return value if isinstance(value, str) else json.dumps(value)

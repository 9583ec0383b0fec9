"""Registration of hypotheses before a grid runs, and the check that nothing was changed since.

When a grid starts, or with `--register`, the hypotheses are copied to its folder. The hash of the
copy and the time are stored in grid.json, in MLflow, and with every stage run that the grid starts.
A report is confirmatory only if all of them agree and the registration is older than every
evaluation that the grid uses, including those that it found in the store.
"""

import dataclasses
import json
import tempfile
import textwrap
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import yaml

from core.config import load_config, to_plain
from core.errors import ConfigError, unknown_name
from core.io.files import atomic_write_text, sha256_file
from core.process.log import get_logger
from core.yaml_text import read_yaml
from pipeline.store.notes import read_grid_json
from pipeline.store.records import StageRecord
from pipeline.store.registration import Registration
from reporting.claims.hypotheses_schema import Hypotheses
from reporting.records import GridRecord

SHIPPED = Path(__file__).parents[1] / "hypotheses.yaml"
"""The hypotheses of the project; a grid that starts copies them."""
PUBLISHED_NAME = "registration.yaml"
"""File that `--register` writes for publication."""

OwnHypotheses: TypeAlias = Mapping[str, Mapping[str, Any] | str]
"""Name of a hypothesis of an experiment -> its fields, as in the file; or name of a shipped one ->
why the experiment leaves it out."""
NO_HYPOTHESES: OwnHypotheses = MappingProxyType({})

_COPY_NAME = "hypotheses.yaml"
_LOG = get_logger("registration")
_PARSED: dict[bytes, Hypotheses] = {}
"""Parsed files of hypotheses by their content."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RegistrationCheck:
    """Evidence that the hypotheses of a grid were fixed before its results."""

    registration: Registration | None
    problems: tuple[str, ...]
    """Reasons why the claims are exploratory, one clause each; empty if they are confirmatory."""

    @property
    def is_confirmatory(self) -> bool:
        """Return whether the hypotheses are shown to be older than the results."""
        return not self.problems


def register(folder: Path, own: OwnHypotheses = NO_HYPOTHESES) -> Registration:
    """Register the hypotheses for the grid in a folder, unless it already has a registration.

    A registration is never replaced, even if its copy is missing or changed: the report then says
    so. A registration made by `--register` keeps its time.

    Args:
        folder: Folder of the grid.
        own: Hypotheses of its experiment, which are added to the shipped ones.

    Raises:
        ConfigError: If the hypotheses are invalid.
    """
    registration = _read_started(folder)
    if registration is not None:
        for problem in _problems_of_copy(folder, registration):
            _LOG.warning("%s: %s; the report will call its claims exploratory", folder, problem)
        _warn_of_changed(folder, own)
        return registration
    return _read_published(folder) or write_copy(folder, own)


def find_registration(folder: Path) -> Registration | None:
    """Return the registration of a grid that has started or was registered before; else None.

    Raises:
        ConfigError: If the copy of the hypotheses has changed since `--register`.
    """
    return _read_started(folder) or _read_published(folder)


def write_copy(
    folder: Path, own: OwnHypotheses = NO_HYPOTHESES, *, now: float | None = None
) -> Registration:
    """Copy the hypotheses to the folder of a grid and return their registration.

    A copy that is already there is kept.

    Args:
        folder: Folder of the grid.
        own: Hypotheses of its experiment, which are added to the shipped ones.
        now: Unix time of the registration; None for the present.
    """
    copy = folder / _COPY_NAME
    if not copy.is_file():
        combine_hypotheses(own)
        atomic_write_text(copy, _join_texts(own))
    load_hypotheses(copy)
    # Whole microseconds, so that the time equals the one that is read back from JSON.
    when = round(time.time() if now is None else now, 6)
    return Registration(sha256=sha256_file(copy), time=when)


def load_registered(folder: Path) -> Hypotheses:
    """Load the hypotheses of a grid; without a copy, the present ones (`check_registration`).

    Raises:
        ConfigError: If the file contains unknown fields or tests, or invalid margins.
    """
    copy = folder / _COPY_NAME
    return load_hypotheses(copy if copy.is_file() else SHIPPED)


def load_hypotheses(path: Path) -> Hypotheses:
    """Load a file of hypotheses, which a report needs for every claim.

    Raises:
        ConfigError: If the file contains unknown fields or tests, or invalid margins.
    """
    content = path.read_bytes()
    if content not in _PARSED:  # the copy of a grid has the content of the shipped file
        _PARSED[content] = load_config(Hypotheses, path)
    return _PARSED[content]


def combine_hypotheses(own: OwnHypotheses) -> Hypotheses:
    """Return the shipped hypotheses with those of an experiment.

    Raises:
        ConfigError: If a hypothesis is invalid or has the name of a shipped one, or if one that is
            left out is not shipped.
    """
    shipped = load_hypotheses(SHIPPED)
    if not own:
        return shipped
    is_valid = isinstance(own, Mapping) and all(
        isinstance(one, Mapping) or (isinstance(one, str) and one.strip()) for one in own.values()
    )
    if not is_valid:
        raise ConfigError(
            f"the hypotheses of the experiment are {own!r:.80}; expected names with the fields "
            "that reporting/hypotheses.yaml explains, or names of its hypotheses with the reason "
            "why the experiment leaves them out"
        )
    added = {name for name, one in own.items() if not isinstance(one, str)}
    if unknown := sorted(set(own) - added - set(shipped.hypotheses)):
        fix = "An experiment leaves out hypotheses of reporting/hypotheses.yaml only."
        raise ConfigError(unknown_name("hypothesis", unknown[0], shipped.hypotheses, fix=fix))
    if both := sorted(added & set(shipped.hypotheses)):
        raise ConfigError(
            f"the experiment's hypothesis '{both[0]}' has the name of one in "
            "reporting/hypotheses.yaml; rename it"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hypotheses of the experiment"
        path.write_text(_join_texts(own), encoding="utf-8")
        try:
            return load_config(Hypotheses, path)
        except ConfigError as error:
            message = str(error).replace(str(path), path.name)
            raise ConfigError(f"{message}; correct them in its file") from error


def _join_texts(own: OwnHypotheses) -> str:
    """Return the text of the shipped file with the hypotheses of an experiment at its end.

    Hypotheses that the experiment leaves out keep their place, and get the reason.
    """
    text = SHIPPED.read_text(encoding="utf-8")
    for name, reason in own.items():
        if isinstance(reason, str):
            heading = f"  {name}:\n"
            text = text.replace(heading, f"{heading}    left_out: {json.dumps(reason)}\n", 1)
    fields = {name: one for name, one in own.items() if not isinstance(one, str)}
    if not fields:
        return text
    added = yaml.safe_dump(to_plain(fields), sort_keys=False, allow_unicode=True)
    return f"{text}  # Hypotheses of the experiment itself:\n{textwrap.indent(added, '  ')}"


def _warn_of_changed(folder: Path, own: OwnHypotheses) -> None:
    """Warn of hypotheses of the experiment that are not those registered for its grid."""
    now, known = combine_hypotheses(own).hypotheses, load_registered(folder).hypotheses
    changed = [name for name in own if now[name] != known.get(name)]
    if changed:
        _LOG.warning(
            "%s: the experiment's hypotheses have changed since the grid was registered (%s); the "
            "registered ones are decided. Register another grid with --name NAME",
            folder,
            ", ".join(changed),
        )


def check_registration(
    grid: GridRecord, *, tracked: Registration | None = None
) -> RegistrationCheck:
    """Check that the hypotheses of a grid were registered before its results and not changed.

    Args:
        grid: The grid.
        tracked: Registration that MLflow has for the grid; None if it is unknown.
    """
    registration = grid.registration
    if registration is None:
        problems = ["the hypotheses were not registered when the grid started"]
        if not (grid.folder / _COPY_NAME).is_file():
            problems.append("the claims are those of the present reporting/hypotheses.yaml")
        return RegistrationCheck(registration=None, problems=tuple(problems))
    problems = _problems_of_copy(grid.folder, registration)
    evaluations = {s.address: s for c in grid.cells if (s := c.evaluation) is not None}
    problems += _problems_of_results(list(evaluations.values()), registration)
    if tracked is not None and tracked != registration:
        problems.append(
            f"MLflow has another registration of this grid ({tracked.sha256[:12]}, "
            f"{tracked.time_utc})"
        )
    return RegistrationCheck(registration=registration, problems=tuple(problems))


def has_changed(folder: Path) -> bool:
    """Return whether the shipped hypotheses differ from those of a grid in more than wording."""
    own = read_grid_json(folder, default={}).get("experiment_hypotheses") or ()
    registered, present = (
        _without_wording(
            dataclasses.replace(
                file, hypotheses={name: h for name, h in file.hypotheses.items() if name not in own}
            )
        )
        for file in (load_registered(folder), load_hypotheses(SHIPPED))
    )
    return registered != present


def _read_started(folder: Path) -> Registration | None:
    raw = read_grid_json(folder, default={}).get("registration")
    return Registration.from_json(raw) if raw else None


def _read_published(folder: Path) -> Registration | None:
    """Return the registration of `--register`, or None if there is none.

    Raises:
        ConfigError: If the copy of the hypotheses has changed since.
    """
    path = folder / PUBLISHED_NAME
    if not path.is_file():
        return None
    raw = read_yaml(path, dict[str, Any])
    registration = Registration.from_json(raw["registration"])
    if problems := _problems_of_copy(folder, registration):
        raise ConfigError(
            f"{path}: {problems[0]}; restore {folder / _COPY_NAME}, or register under another "
            "--name"
        )
    return registration


def _problems_of_copy(folder: Path, registration: Registration) -> list[str]:
    copy = folder / _COPY_NAME
    if not copy.is_file():
        return [
            "the registered copy of the hypotheses is missing, so the claims are those of the "
            "present reporting/hypotheses.yaml"
        ]
    if sha256_file(copy) != registration.sha256:
        return ["the registered copy of the hypotheses has been changed"]
    return []


def _problems_of_results(evaluations: list[StageRecord], registration: Registration) -> list[str]:
    """Compare the registration with the start of the evaluations and with their own records."""
    starts = [stage.started for stage in evaluations if stage.started is not None]
    if starts and min(starts) < registration.time:
        early = sum(start < registration.time for start in starts)
        return [
            f"the hypotheses were registered at {registration.time_utc[:19]} UTC, after "
            f"{early} of the {len(evaluations)} evaluations had started"
        ]
    other = [stage for stage in evaluations if not _was_known(stage, registration)]
    if not other:
        return []
    return [
        f"{len(other)} of the {len(evaluations)} evaluations do not record this registration "
        f"(for example {other[0].address})"
    ]


def _was_known(stage: StageRecord, registration: Registration) -> bool:
    """Return whether an evaluation records the same hypotheses, registered before it started."""
    started = float("inf") if stage.started is None else stage.started
    return any(
        known.sha256 == registration.sha256 and known.time <= started
        for known in stage.registrations
    )


def _without_wording(registered: Hypotheses) -> Hypotheses:
    hypotheses = {
        name: dataclasses.replace(hypothesis, text="", source="")
        for name, hypothesis in registered.hypotheses.items()
    }
    return dataclasses.replace(registered, hypotheses=hypotheses)

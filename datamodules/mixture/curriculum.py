"""Schedules whose proportions change between phases, as a pure function of the position.

Separate from `schedule`, whose tables have constant proportions.
"""

from collections.abc import Sequence

import numpy as np

from core.errors import ConfigError
from datamodules.mixture.config import MixtureConfig
from datamodules.mixture.schedule import ComponentAssignment, Schedule


class PhasedSchedule:
    """A `Schedule` per phase; indices continue across phases, and so do epochs.

    Each phase on its own is within one sample of its shares, and contains no samples of paused
    components.
    """

    def __init__(
        self, start_steps: Sequence[int], samples_per_step: Sequence[Sequence[float]]
    ) -> None:
        rows = [np.asarray(row, dtype=np.float64) for row in samples_per_step]
        self.start_steps = tuple(start_steps)
        self._members = [np.flatnonzero(row) for row in rows]
        self._schedules = [
            _open_schedule(step, row[members])
            for step, row, members in zip(start_steps, rows, self._members, strict=True)
        ]
        self.samples_per_step = self._schedules[0].samples_per_step
        for step, schedule in zip(start_steps, self._schedules, strict=True):
            if schedule.samples_per_step != self.samples_per_step:
                raise ConfigError(
                    f"samples_per_step sum to {self.samples_per_step} at step 0 and to "
                    f"{schedule.samples_per_step} from step {step}, expected the same sum in every "
                    "phase; raise one component by as much as you lower others"
                )
        self._starts = np.asarray(start_steps, dtype=np.int64) * self.samples_per_step
        self._num_components = len(rows[0])
        self._before = np.zeros((len(rows), self._num_components), dtype=np.int64)
        for phase in range(1, len(rows)):
            self._before[phase] = self._before[phase - 1] + self._counts_within(
                phase - 1, int(self._starts[phase])
            )

    @property
    def num_phases(self) -> int:
        """Number of phases, including the first."""
        return len(self._schedules)

    def phase_of(self, positions: np.ndarray) -> np.ndarray:
        """Return the phase of each position."""
        return np.searchsorted(self._starts, positions, side="right") - 1

    def __call__(self, positions: np.ndarray) -> ComponentAssignment:
        """Return component and index of each position (int64, in any order)."""
        phases = self.phase_of(positions)
        component, index = np.empty_like(positions), np.empty_like(positions)
        for phase in np.unique(phases):
            here = phases == phase
            assigned = self._schedules[phase](positions[here] - self._starts[phase])
            component[here] = self._members[phase][assigned.component]
            index[here] = assigned.index_in_component + self._before[phase][component[here]]
        return ComponentAssignment(component, index)

    def prefix_counts(self, position: int) -> np.ndarray:
        """Return the number of samples of each component before a position."""
        phase = int(self.phase_of(np.asarray(position)))
        counts: np.ndarray = self._before[phase] + self._counts_within(phase, position)
        return counts

    def bounds(self, phase: int, stop: int) -> tuple[int, int]:
        """Return the first and the end position of a phase in a stream that ends at `stop`."""
        is_last = phase + 1 == self.num_phases
        end = stop if is_last else min(stop, int(self._starts[phase + 1]))
        start = min(stop, int(self._starts[phase]))
        return start, max(start, end)

    def expected(self, phase: int, num_positions: int) -> np.ndarray:
        """Return the exact share of each component in a phase, as a fractional sample count."""
        expected = np.zeros(self._num_components, dtype=np.float64)
        expected[self._members[phase]] = self._schedules[phase].expected(num_positions)
        return expected

    def _counts_within(self, phase: int, position: int) -> np.ndarray:
        counts = np.zeros(self._num_components, dtype=np.int64)
        offset = position - int(self._starts[phase])
        counts[self._members[phase]] = self._schedules[phase].prefix_counts(offset)
        return counts


def mixture_schedule(config: MixtureConfig) -> PhasedSchedule:
    """Return the schedule of a mixture, with its components in the order of their names.

    Raises:
        ConfigError: If the samples per step do not add up to the same whole number in every phase.
    """
    parts = [config.components[name] for name in sorted(config.components)]
    starts = sorted({0, *(phase.from_step for part in parts for phase in part.phases)})
    return PhasedSchedule(starts, [[part.at(step)[0] for part in parts] for step in starts])


def _open_schedule(step: int, weights: np.ndarray) -> Schedule:
    where = f"from step {step}: " if step else ""
    if not weights.size:
        raise ConfigError(f"{where}no component has samples_per_step above 0; enable at least one")
    try:
        return Schedule(weights.tolist())
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error

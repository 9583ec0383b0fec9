"""Shares over training: phases of constant proportion, and still a pure function of the position.

Kept apart from `schedule`, whose tables hold one proportion each.
"""

from collections.abc import Sequence

import numpy as np

from core.errors import ConfigError
from datamodules.mixture.schedule import ComponentAssignment, Schedule


class PhasedSchedule:
    """A `Schedule` per phase; ranks count on, so epochs run across phases.

    Every phase is by itself within one sample of its shares, and rests a component exactly.
    """

    def __init__(
        self, start_steps: Sequence[int], samples_per_step: Sequence[Sequence[float]]
    ) -> None:
        rows = [np.asarray(row, dtype=np.float64) for row in samples_per_step]
        self.start_steps = tuple(start_steps)
        self._members = [np.flatnonzero(row) for row in rows]
        self._schedules = [
            _open(step, row[members])
            for step, row, members in zip(start_steps, rows, self._members, strict=True)
        ]
        self.samples_per_step = self._schedules[0].samples_per_step
        for step, schedule in zip(start_steps, self._schedules, strict=True):
            if schedule.samples_per_step != self.samples_per_step:
                raise ConfigError(
                    f"samples_per_step sum to {self.samples_per_step} at the start and to "
                    f"{schedule.samples_per_step} from step {step} on, expected the same in every "
                    "phase: what one component gains, another must give"
                )
        self._starts = np.asarray(start_steps, dtype=np.int64) * self.samples_per_step
        self._num_components = len(rows[0])
        self._before = np.zeros((len(rows), self._num_components), dtype=np.int64)
        for phase in range(1, len(rows)):
            self._before[phase] = self._before[phase - 1] + self._inside(
                phase - 1, int(self._starts[phase])
            )

    @property
    def num_phases(self) -> int:
        """Phases, the first included."""
        return len(self._schedules)

    def phase_of(self, positions: np.ndarray) -> np.ndarray:
        """The phase that each position falls in."""
        return np.searchsorted(self._starts, positions, side="right") - 1

    def __call__(self, positions: np.ndarray) -> ComponentAssignment:
        """Component and rank of positions (int64, any order)."""
        phases = self.phase_of(positions)
        component, index = np.empty_like(positions), np.empty_like(positions)
        for phase in np.unique(phases):
            here = phases == phase
            assigned = self._schedules[phase](positions[here] - self._starts[phase])
            component[here] = self._members[phase][assigned.component]
            index[here] = assigned.index_in_component + self._before[phase][component[here]]
        return ComponentAssignment(component, index)

    def prefix_counts(self, position: int) -> np.ndarray:
        """Samples of each component before a position."""
        phase = int(self.phase_of(np.asarray(position)))
        counts: np.ndarray = self._before[phase] + self._inside(phase, position)
        return counts

    def bounds(self, phase: int, stop: int) -> tuple[int, int]:
        """First position of a phase and the one after its last, in a stream ending at `stop`."""
        is_last = phase + 1 == self.num_phases
        end = stop if is_last else min(stop, int(self._starts[phase + 1]))
        start = min(stop, int(self._starts[phase]))
        return start, max(start, end)

    def expected(self, phase: int, num_positions: int) -> np.ndarray:
        """The exact share of each component in so many positions of a phase, in samples."""
        expected = np.zeros(self._num_components, dtype=np.float64)
        expected[self._members[phase]] = self._schedules[phase].expected(num_positions)
        return expected

    def _inside(self, phase: int, position: int) -> np.ndarray:
        counts = np.zeros(self._num_components, dtype=np.int64)
        place = position - int(self._starts[phase])
        counts[self._members[phase]] = self._schedules[phase].prefix_counts(place)
        return counts


def _open(step: int, weights: np.ndarray) -> Schedule:
    where = f"from step {step} on: " if step else ""
    if not weights.size:
        raise ConfigError(f"{where}no component has samples_per_step above 0; let one run")
    try:
        return Schedule(weights.tolist())
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error

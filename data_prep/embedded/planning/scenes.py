"""Layouts of scenes: the concept in each quadrant of an image.

Also the facts about a scene that can be asked unambiguously: positions, neighbours and counts.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from core.errors import DataError
from data_prep.embedded.drawings import NUM_QUADRANTS
from data_prep.embedded.planning.questions import Asker

QUADRANTS = ("top_left", "top_right", "bottom_left", "bottom_right")
_HALVES = {"left": (0, 2), "right": (1, 3), "top": (0, 1), "bottom": (2, 3)}
_FACING = {"left_of": ("right", "left"), "right_of": ("left", "right")} | {
    "above": ("bottom", "top"),
    "below": ("top", "bottom"),
}
"""Relation -> (half with the named concept, half that is asked about)."""

_PATTERN_WEIGHTS: dict[tuple[int, ...], int] = {
    (1,): 26,
    (1, 1): 18,
    (2,): 8,
    (1, 1, 1): 7,
    (2, 1): 7,
    (3,): 13,
    (1, 1, 1, 1): 6,
    (2, 1, 1): 6,
    (2, 2): 4,
    (3, 1): 13,
    (4,): 25,
}
"""Number of copies of each concept -> weight. The weights allow both counting questions to be asked
equally often with each answer from one to four."""

_MAX_TRIES = 2000
_NEVER = 1 << 40
"""Number of uses of concepts that are left out, which the least used never reach."""

Combination: TypeAlias = tuple[int, ...]
"""Two different concepts, or the copies of the only concept of a scene."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The concept or None in each quadrant: top left, top right, bottom left, bottom right."""

    quadrants: tuple[int | None, ...]

    @property
    def things(self) -> tuple[int, ...]:
        """The concepts in reading order, with repetitions."""
        return tuple(concept for concept in self.quadrants if concept is not None)

    @property
    def counts(self) -> dict[int, int]:
        """Concept -> number of its copies."""
        return dict(Counter(self.things))

    @property
    def combinations(self) -> set[Combination]:
        """Unordered pairs of different concepts, or all copies of an only concept."""
        found = sorted(set(self.things))
        if len(found) == 1:
            return {tuple(self.things)}
        return {(a, b) for i, a in enumerate(found) for b in found[i + 1 :]}

    def places(self) -> list[tuple[str, int]]:
        """Return (place, concept) wherever "What is {place}?" has exactly one answer."""
        found = [
            (QUADRANTS[quadrant], concept)
            for quadrant, concept in enumerate(self.quadrants)
            if concept is not None
        ]
        for half in _HALVES:
            concepts = self._in_half(half)
            if len(concepts) == 1:
                found.append((half, concepts.pop()))
        return found

    def neighbours(self) -> list[tuple[str, int, int]]:
        """Return (relation, named concept, neighbour) where the question has one answer."""
        found = []
        for relation, (near, far) in _FACING.items():
            there = self._in_half(far)
            if len(there) != 1:
                continue
            concept = there.pop()
            named = [c for c in sorted(self._in_half(near)) if self.counts[c] == 1]
            found += [(relation, name, concept) for name in named if name != concept]
        return found

    def _in_half(self, half: str) -> set[int]:
        return {c for quadrant in _HALVES[half] if (c := self.quadrants[quadrant]) is not None}


class SceneMaker:
    """Draws scenes of concepts that are not confusable, using all concepts equally often."""

    def __init__(
        self, asker: Asker, forbidden: set[Combination], *, left_out: Sequence[int] = ()
    ) -> None:
        """Create a maker.

        Args:
            asker: Knows which concepts are confusable.
            forbidden: Combinations that no scene may show.
            left_out: Concepts that no scene shows.
        """
        self._asker = asker
        self._forbidden = forbidden
        self._uses = np.zeros(len(asker.catalogue), dtype=np.int64)
        self._uses[list(left_out)] = _NEVER

    def make(
        self, pattern: tuple[int, ...], rng: np.random.Generator, *, first: int | None = None
    ) -> Scene:
        """Draw a scene with the numbers of copies that the pattern gives.

        Args:
            pattern: Number of copies of each concept.
            rng: Source of all random choices.
            first: Concept that the scene shows in any case.

        Raises:
            DataError: If too few concepts can be combined.
        """
        concepts = self._choose_concepts(pattern, rng, first)
        things = [concept for concept, n in zip(concepts, pattern, strict=True) for _ in range(n)]
        quadrants: list[int | None] = [None] * NUM_QUADRANTS
        for quadrant, thing in zip(
            rng.permutation(NUM_QUADRANTS), rng.permutation(things), strict=False
        ):
            quadrants[int(quadrant)] = int(thing)
        self._uses[concepts] += 1
        return Scene(quadrants=tuple(quadrants))

    def _choose_concepts(
        self, pattern: tuple[int, ...], rng: np.random.Generator, first: int | None
    ) -> list[int]:
        """Choose the least used concepts that can be combined; ties are broken randomly."""
        confusable, count = self._asker.catalogue.confusable, len(pattern)
        for _ in range(_MAX_TRIES):
            order = np.lexsort((rng.random(len(self._uses)), self._uses))
            chosen: list[int] = [] if first is None else [first]
            if len(chosen) == count:
                return chosen
            for concept in order[: max(count * 8, 16)]:
                fits = all(
                    not confusable[concept, other]
                    and (min(concept, other), max(concept, other)) not in self._forbidden
                    for other in chosen
                )
                if count == 1:
                    fits = (int(concept),) * pattern[0] not in self._forbidden
                if fits:
                    chosen.append(int(concept))
                if len(chosen) == count:
                    return chosen
            self._uses = self._uses + rng.integers(0, 2, size=len(self._uses))
        raise DataError(
            f"no combination of {count} of {len(self._uses)} concepts gives a new scene; raise "
            "--concepts"
        )


def balanced_patterns(
    count: int, weights: Mapping[tuple[int, ...], int] = _PATTERN_WEIGHTS
) -> list[tuple[int, ...]]:
    """Return patterns whose every prefix follows the weights as closely as possible."""
    patterns = list(weights)
    shares = np.array(list(weights.values())) / sum(weights.values())
    drawn = np.zeros(len(patterns))
    chosen = []
    for number in range(count):
        best = int(np.argmax(shares * (number + 1) - drawn))
        drawn[best] += 1
        chosen.append(patterns[best])
    return chosen


def draw_pattern(rng: np.random.Generator) -> tuple[int, ...]:
    """Draw a pattern with probability proportional to its weight."""
    bounds = np.cumsum(list(_PATTERN_WEIGHTS.values()))
    drawn = int(np.searchsorted(bounds, int(rng.integers(bounds[-1])), side="right"))
    return list(_PATTERN_WEIGHTS)[drawn]

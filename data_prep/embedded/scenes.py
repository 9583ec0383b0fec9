"""Scenes before they are images: which concept stands in which cell of the 2x2 layout.

Also what can be asked about a scene without doubt: where something is, what is beside what, how
often a thing appears.
"""

import dataclasses
from collections import Counter
from typing import TypeAlias

import numpy as np

from core.errors import DataError
from data_prep.embedded.drawings import NUM_CELLS
from data_prep.embedded.questions import Asker

CELL_PLACES = ("top_left", "top_right", "bottom_left", "bottom_right")
_HALVES = {"left": (0, 2), "right": (1, 3), "top": (0, 1), "bottom": (2, 3)}
_FACING = {"left_of": ("right", "left"), "right_of": ("left", "right")} | {
    "above": ("bottom", "top"),
    "below": ("top", "bottom"),
}
"""Relation -> (the half that the named thing is in, the half that is asked about)."""

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
"""How often each concept of a scene appears -> weight. Chosen so that both "how many things" and
"how many times" can be asked equally often with each answer from one to four."""

_MAX_TRIES = 2000

Combination: TypeAlias = tuple[int, ...]
"""Two different concepts, or one as often as it appears in a scene of its own."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The concept in each cell (top left, top right, bottom left, bottom right), or None."""

    cells: tuple[int | None, ...]

    @property
    def things(self) -> tuple[int, ...]:
        """The concepts in reading order, with repetitions."""
        return tuple(concept for concept in self.cells if concept is not None)

    @property
    def counts(self) -> dict[int, int]:
        """Concept -> how often it appears."""
        return dict(Counter(self.things))

    @property
    def combinations(self) -> set[Combination]:
        """Unordered pairs of different concepts; of one concept, how often it is there."""
        found = sorted(set(self.things))
        if len(found) == 1:
            return {tuple(self.things)}
        return {(a, b) for i, a in enumerate(found) for b in found[i + 1 :]}

    def places(self) -> list[tuple[str, int]]:
        """(place, concept) wherever "What is {place}?" has one answer."""
        found = [
            (CELL_PLACES[cell], concept)
            for cell, concept in enumerate(self.cells)
            if concept is not None
        ]
        for half in _HALVES:
            concepts = self._in_half(half)
            if len(concepts) == 1:
                found.append((half, concepts.pop()))
        return found

    def neighbours(self) -> list[tuple[str, int, int]]:
        """(relation, named concept, concept there) wherever the question has one answer."""
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
        return {c for cell in _HALVES[half] if (c := self.cells[cell]) is not None}


class SceneMaker:
    """Draws scenes: every concept used about equally often, no two confusable ones together."""

    def __init__(self, asker: Asker, forbidden: set[Combination]) -> None:
        self._asker = asker
        self._forbidden = forbidden
        self._uses = np.zeros(len(asker.catalogue), dtype=np.int64)

    def make(self, pattern: tuple[int, ...], rng: np.random.Generator) -> Scene:
        """A scene with as many things of as many concepts as the pattern says.

        Raises:
            DataError: too few concepts go together.
        """
        concepts = self._concepts(pattern, rng)
        things = [concept for concept, n in zip(concepts, pattern, strict=True) for _ in range(n)]
        cells: list[int | None] = [None] * NUM_CELLS
        for cell, thing in zip(rng.permutation(NUM_CELLS), rng.permutation(things), strict=False):
            cells[int(cell)] = int(thing)
        self._uses[concepts] += 1
        return Scene(cells=tuple(cells))

    def _concepts(self, pattern: tuple[int, ...], rng: np.random.Generator) -> list[int]:
        """The least used concepts that go together, ties broken by chance."""
        confusable, count = self._asker.catalogue.confusable, len(pattern)
        for _ in range(_MAX_TRIES):
            order = np.lexsort((rng.random(len(self._uses)), self._uses))
            chosen: list[int] = []
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
            f"no {count} of {len(self._uses)} concepts make a new scene; raise --concepts"
        )


def balanced_patterns(count: int) -> list[tuple[int, ...]]:
    """That many patterns, at every point as near to the weights as whole numbers can be."""
    patterns = list(_PATTERN_WEIGHTS)
    shares = np.array(list(_PATTERN_WEIGHTS.values())) / sum(_PATTERN_WEIGHTS.values())
    drawn = np.zeros(len(patterns))
    chosen = []
    for number in range(count):
        best = int(np.argmax(shares * (number + 1) - drawn))
        drawn[best] += 1
        chosen.append(patterns[best])
    return chosen


def draw_pattern(rng: np.random.Generator) -> tuple[int, ...]:
    """One pattern, by its weight."""
    bounds = np.cumsum(list(_PATTERN_WEIGHTS.values()))
    drawn = int(np.searchsorted(bounds, int(rng.integers(bounds[-1])), side="right"))
    return list(_PATTERN_WEIGHTS)[drawn]

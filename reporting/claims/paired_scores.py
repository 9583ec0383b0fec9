"""Values per item of a grid's cells in a common order, as paired comparisons need them."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from evaluation.statistics.trainings.recipes import SeedScores


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CellScores:
    """Values of all trainings of one cell on the same items.

    The value of the cell is a weighted mean over items, or a sum of such means over groups of items
    with a coefficient each. A plain score has one group with the coefficient 1; the difference
    between open and closed questions has two, with the coefficients 1 and -1.
    """

    questions: tuple[str, ...]
    images: tuple[str, ...]
    seeds: tuple[int, ...]
    scores_KI: np.ndarray
    """Value of every training (rows) on every item (columns)."""
    blind_KI: np.ndarray | None = None
    """The same with a blank image; None if it was not measured."""
    majority_KI: np.ndarray | None = None
    """Scores of the best constant reply; None if there is no such baseline."""
    groups_I: np.ndarray | None = None
    """Index of the group of every item; None for one group."""
    coefficients: tuple[float, ...] = (1.0,)
    weights_I: np.ndarray | None = None
    """Weight of every item within its group; None for equal weights."""
    is_attributable: bool = False
    """Whether the value is the score minus the blind score."""
    is_trained: bool = True
    """Whether other trainings would give other values; not so before any training."""

    def per_training(self) -> np.ndarray:
        """Return values (K, I) whose mean over items is the value of the cell, per training."""
        return self._linearise(self.raw())

    @property
    def values(self) -> np.ndarray:
        """The same, averaged over the trainings."""
        mean: np.ndarray = self.per_training().mean(axis=0)
        return mean

    @property
    def reference(self) -> np.ndarray:
        """Values of a model that ignores the image, averaged over the trainings."""
        if self.is_attributable or self.blind_KI is None:
            return np.zeros(len(self.questions))
        reference: np.ndarray = self._linearise(self.blind_KI).mean(axis=0)
        return reference

    def select(self, questions: Sequence[str]) -> "CellScores":
        """Return the values of some questions, in their order."""
        position = {question: at for at, question in enumerate(self.questions)}
        at_I = [position[question] for question in questions]
        return dataclasses.replace(
            self,
            questions=tuple(questions),
            images=tuple(self.images[at] for at in at_I),
            scores_KI=self.scores_KI[:, at_I],
            blind_KI=None if self.blind_KI is None else self.blind_KI[:, at_I],
            majority_KI=None if self.majority_KI is None else self.majority_KI[:, at_I],
            groups_I=None if self.groups_I is None else self.groups_I[at_I],
            weights_I=None if self.weights_I is None else self.weights_I[at_I],
        )

    def to_seed_scores(self) -> SeedScores:
        """Return the input of `evaluation.statistics.trainings.recipes`."""
        return SeedScores(
            seeds=self.seeds,
            scores_KI=self.per_training(),
            clusters=np.asarray(self.images),
            is_trained=self.is_trained,
        )

    def without_image(self) -> "CellScores":
        """Return the cell as if its score were that with a blank image."""
        if self.blind_KI is None:
            raise ValueError("the cell was not evaluated with blank images")
        return dataclasses.replace(self, scores_KI=self.blind_KI)

    def minus(self, other: "CellScores") -> "CellScores | None":
        """Return the difference to another cell per training and item; None without a common seed.

        Trainings are paired by their seed. Baselines do not apply to differences.
        """
        first, second = align_items([self, other])
        seeds = [seed for seed in first.seeds if seed in second.seeds]
        if not seeds:
            return None
        rows = [cell.raw()[[cell.seeds.index(seed) for seed in seeds]] for cell in (first, second)]
        return dataclasses.replace(
            first,
            seeds=tuple(seeds),
            scores_KI=rows[0] - rows[1],
            blind_KI=None,
            majority_KI=None,
            is_attributable=False,
        )

    def raw(self) -> np.ndarray:
        """Return the value (K, I) of every training on every item, before any weighting."""
        values_KI = self.scores_KI
        if self.is_attributable and self.blind_KI is not None:
            values_KI = values_KI - self.blind_KI
        return values_KI

    def with_majority_answer(self) -> "CellScores":
        """Return the cell as if every reply were the most frequent answer."""
        if self.majority_KI is None:
            raise ValueError("the questions have no most frequent answer")
        return dataclasses.replace(self, scores_KI=self.majority_KI)

    def _linearise(self, values_KI: np.ndarray) -> np.ndarray:
        """Replace a sum of weighted group means by a plain mean over all items.

        Each item gets the value of the whole sum plus its own influence on it (the first term of
        the Taylor series), so that resampling images also covers the random size of the groups.
        """
        if self.groups_I is None and self.weights_I is None:
            return values_KI
        num_items = values_KI.shape[1]
        groups_I = np.zeros(num_items, dtype=int) if self.groups_I is None else self.groups_I
        weights_I = np.ones(num_items) if self.weights_I is None else self.weights_I
        totals_G = np.bincount(groups_I, weights=weights_I, minlength=len(self.coefficients))
        scale_I = (
            num_items * np.asarray(self.coefficients)[groups_I] * weights_I / totals_G[groups_I]
        )
        result = np.empty(values_KI.shape)
        for row, values_I in enumerate(values_KI):
            sums_G = np.bincount(
                groups_I, weights=weights_I * values_I, minlength=len(self.coefficients)
            )
            means_G = sums_G / totals_G
            total = float(means_G @ np.asarray(self.coefficients))
            result[row] = total + scale_I * (values_I - means_G[groups_I])
        return result


def align_items(cells: Iterable[CellScores]) -> list[CellScores]:
    """Restrict all cells to their common questions, in the order of the first cell."""
    cells = list(cells)
    common = set(cells[0].questions).intersection(*(cell.questions for cell in cells))
    kept = [question for question in cells[0].questions if question in common]
    return [cell.select(kept) for cell in cells]


def stack_seeds(trainings: Sequence[tuple[int, CellScores]]) -> CellScores:
    """Join the trainings of one cell; only common questions are kept."""
    same = align_items(part for _, part in trainings)

    def stack(rows: Sequence[np.ndarray | None]) -> np.ndarray | None:
        known = [row for row in rows if row is not None]
        return np.concatenate(known) if len(known) == len(rows) else None

    return dataclasses.replace(
        same[0],
        seeds=tuple(seed for seed, _ in trainings),
        scores_KI=np.concatenate([part.scores_KI for part in same]),
        blind_KI=stack([part.blind_KI for part in same]),
        majority_KI=stack([part.majority_KI for part in same]),
    )

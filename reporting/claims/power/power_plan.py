"""Power of the claims of a planned grid, before anything is trained.

The assumptions are those of `reporting.claims.power.pilot`; this module adds the numbers of images
and seeds of the plan. The mean over P pooled pairs of cells is treated as P times the seeds.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from configuration.axes import GridCell, flatten
from configuration.run_config import RunConfig
from evaluation.benchmarks.items import BenchmarkItem
from evaluation.statistics.trainings.power import ClaimPlan, PowerSummary, describe_power
from reporting.claims.claim_cells import ClaimCells, select_cells
from reporting.claims.claim_texts import describe_comparison, describe_group, fill_text
from reporting.claims.hypotheses_schema import (
    BENCHMARK_KINDS,
    BEST,
    ClaimKind,
    Comparison,
    Hypotheses,
    Hypothesis,
    Population,
    Quantity,
    QuestionLanguage,
)
from reporting.claims.measures import measure_of
from reporting.claims.power.pilot import ClaimAssumptions
from reporting.series import View, make_view
from reporting.settings import SHARE, Setting, configured_axes, without_amount

IMAGE_CONTRIBUTION = 0.3
"""Assumed score minus blind score of the best cell, for margins relative to it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkSize:
    """Number of questions and images about which a claim is made."""

    num_questions: int
    num_images: int
    spread: float = 1.0
    """Standard error relative to that of one mean over all questions; larger for the difference
    between two parts of them."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlannedClaim:
    """A claim of a planned grid and its power."""

    name: str
    text: str
    """The claim with what distinguishes it from the others of its hypothesis."""
    detail: str
    """Benchmark, metric, compared cells and margin; empty if the hypothesis does not apply."""
    size: BenchmarkSize | None
    """None if the number of questions is not known before the grid runs."""
    num_pairs: int
    num_seeds: int
    """Smallest number of trainings of a compared cell."""
    models: PowerSummary | None
    """Power of the claim about these trained models."""
    recipe: PowerSummary | None
    """Power of the claim about their recipes."""
    reason: str = ""
    """Why there is no power, or why the hypothesis does not apply."""

    @property
    def seeds_per_cell(self) -> int | None:
        """Trainings of each cell in the cheapest design with 80 % power for the recipes."""
        if self.recipe is None or self.recipe.cheapest is None:
            return None
        return math.ceil(self.recipe.cheapest.num_seeds / self.num_pairs)


class BenchmarkSizes:
    """Questions of the benchmarks of a planned grid."""

    def __init__(self, items: Iterable[BenchmarkItem], expected_questions: int = 0) -> None:
        """Count the questions.

        Args:
            items: Items of all benchmarks, the main one first.
            expected_questions: Questions of a benchmark that does not exist yet; each is assumed to
                have an image of its own, and to belong to every kind in equal parts.
        """
        self._items = [
            (i.dataset, i.benchmark.value, i.language, i.answer_type, i.question_type, i.image_key)
            for i in items
        ]
        self._expected = expected_questions

    @property
    def main(self) -> str:
        """Name of the main benchmark; empty if its items do not exist yet."""
        return self._items[0][0] if self._items else ""

    def of(self, hypothesis: Hypothesis, kind: ClaimKind, language: str) -> BenchmarkSize | None:
        """Return the size of what a hypothesis is about; None if it is unknown or empty."""
        if kind not in (*BENCHMARK_KINDS, ClaimKind.FIDELITY):
            return None
        if self._expected:
            number = self._expected // 3
            spread = 1.0 if hypothesis.contrast is None else 2.0
            return BenchmarkSize(num_questions=number, num_images=number, spread=spread)
        if not self._items:
            return None
        parts = [hypothesis.population, *([hypothesis.contrast] if hypothesis.contrast else [])]
        found = [
            [
                image
                for name, item_kind, item_language, answer_type, question_type, image in self._items
                if (name, item_language)
                == (part.benchmark or hypothesis.benchmark or self.main, language)
                and _selects(part, kind, item_kind, answer_type, question_type)
            ]
            for part in parts
        ]
        if not all(found):
            return None
        total = sum(map(len, found))
        return BenchmarkSize(
            num_questions=total,
            num_images=len({image for images in found for image in images}),
            spread=math.sqrt(total * sum(1 / len(images) for images in found)),
        )


def plan_claims(
    cells: Sequence[GridCell],
    hypotheses: Hypotheses,
    sizes: BenchmarkSizes,
    assumptions: ClaimAssumptions,
) -> list[PlannedClaim]:
    """Return the claims of a planned grid with their power, and hypotheses that do not apply."""
    seeds: dict[Setting, int] = {}
    for cell in cells:
        setting = configured_axes(cell.axes)
        seeds[setting] = seeds.get(setting, 0) + 1
    fields = {configured_axes(cell.axes): cell.fields for cell in cells}
    flat = [flatten(cell.config) for cell in cells]
    common = {
        path: value
        for path, value in flat[0].items()
        if all(path in other and other[path] == value for other in flat)
    }
    planning = _Planning(
        hypotheses=hypotheses,
        sizes=sizes,
        seeds=seeds,
        view=_view(cells[0].config, list(seeds)),
        deciding_metric=str(cells[0].config.report.deciding_metric),
        benchmark=sizes.main or cells[0].config.data.benchmarks[0],
    )
    planned = list[PlannedClaim]()
    for name, hypothesis in hypotheses.hypotheses.items():
        found = select_cells(hypothesis, list(seeds), common, fields)
        for kind in hypothesis.kinds:
            planned += planning.claims(name, hypothesis, kind, found)
    counted = [claim for claim in planned if not claim.reason]
    df = sum(number - 1 for number in seeds.values())
    return [
        claim
        if claim.reason
        else _with_power(claim, hypotheses, assumptions, df, num_claims=len(counted))
        for claim in planned
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Planning:
    """Settings that all claims of a planned grid share."""

    hypotheses: Hypotheses
    sizes: BenchmarkSizes
    seeds: Mapping[Setting, int]
    """Number of trainings of every cell."""
    view: View
    deciding_metric: str
    benchmark: str
    """Name of the main benchmark."""

    def claims(
        self, name: str, hypothesis: Hypothesis, kind: ClaimKind, found: list[ClaimCells] | str
    ) -> list[PlannedClaim]:
        """Return the claims of a hypothesis about one kind, still without power."""
        is_target = hypothesis.language is QuestionLanguage.TARGET
        language = self.view.target if is_target else self.view.base
        size = self.sizes.of(hypothesis, kind, language)
        if isinstance(found, str) or size is None:
            text = fill_text(hypothesis, hypothesis.first, hypothesis.second)
            if len(hypothesis.kinds) > 1:
                text += f" ({kind.value})"
            reason = found if isinstance(found, str) else "number of questions not known beforehand"
            return [PlannedClaim(name=name, text=text, detail="", size=size, num_pairs=0,
                                 num_seeds=0, models=None, recipe=None, reason=reason)]  # fmt: skip
        measure = measure_of(hypothesis, kind, language, self.deciding_metric)
        measure = dataclasses.replace(measure, benchmark=measure.benchmark or self.benchmark)
        margin = self.hypotheses.margin_of(hypothesis)
        return [
            PlannedClaim(
                name=name,
                text=fill_text(hypothesis, cells.first, cells.second)
                + describe_group(hypothesis, cells, measure, self.view),
                detail=f"{measure.unit.subject} in {language}; "
                + describe_comparison(hypothesis, cells, measure, self.view, margin=margin),
                size=size,
                num_pairs=1 if hypothesis.second == BEST else len(cells.pairs),
                num_seeds=min(self.seeds[cell] for pair in cells.pairs for cell in pair),
                models=None,
                recipe=None,
            )
            for cells in found
        ]


def _view(config: RunConfig, planned: Sequence[Setting]) -> View:
    """Return how the report will present a planned grid."""
    settings = map(without_amount, planned)
    return make_view(
        base=config.languages.base,
        target=config.languages.target,
        settings=tuple(dict.fromkeys(settings)),
        shares=tuple(sorted({float(str(dict(cell).get(SHARE) or 0.0)) for cell in planned})),
        seeds=(),
        num_places=len(planned),
    )


def _with_power(
    claim: PlannedClaim,
    hypotheses: Hypotheses,
    assumptions: ClaimAssumptions,
    df: int,
    *,
    num_claims: int,
) -> PlannedClaim:
    if claim.size is None:
        return claim
    hypothesis = hypotheses.hypotheses[claim.name]
    is_gain = hypothesis.test is Comparison.SUPERIORITY
    margin = hypotheses.margin_of(hypothesis)
    if hypothesis.relative_margin is not None:
        margin = hypothesis.relative_margin * IMAGE_CONTRIBUTION
    # A difference in differences has twice the variance of a difference.
    spread = math.sqrt(2.0) if hypothesis.minus else 1.0
    is_attributable = hypothesis.quantity is Quantity.ATTRIBUTABLE
    assumed = assumptions.attributable if is_attributable else assumptions.score
    models = ClaimPlan(
        num_images=claim.size.num_images,
        items_per_image=claim.size.num_questions / claim.size.num_images,
        num_seeds=claim.num_seeds * claim.num_pairs,
        test=hypothesis.test.value,
        delta=0.0 if is_gain else margin,
        true_difference=margin if is_gain else 0.0,
        sd_item_difference=spread * claim.size.spread * assumed.sd_item_difference,
        intra_image_correlation=assumed.intra_image_correlation,
        noise_share=assumed.noise_share,
        training_sd=None,
        num_claims=num_claims,
    )
    recipe = dataclasses.replace(models, training_sd=spread * assumed.training_sd, training_df=df)
    return dataclasses.replace(claim, models=describe_power(models), recipe=describe_power(recipe))


def _selects(
    population: Population, kind: ClaimKind, item_kind: str, answer_type: str, question_type: str
) -> bool:
    kinds = population.kinds or ([kind.value] if kind in BENCHMARK_KINDS else [])
    return (
        (not kinds or item_kind in kinds)
        and (not population.answer_types or answer_type in population.answer_types)
        and (not population.question_types or question_type in population.question_types)
    )

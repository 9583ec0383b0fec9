"""Table of a dry run: what each claim could show with the benchmark and the number of seeds."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluation.statistics.trainings.power import PowerSummary
from reporting.claims.power.pilot import ClaimAssumptions
from reporting.claims.power.power_plan import IMAGE_CONTRIBUTION, PlannedClaim

_COLUMNS = ("claim and comparison", "questions", "images", "pairs", "seeds", "detectable, points",
            "power, models", "power, recipe", "cheapest for 80 %")  # fmt: skip


def show_claims(
    console: Console, claims: Sequence[PlannedClaim], assumptions: ClaimAssumptions
) -> None:
    """Print the power of every claim, and the hypotheses that do not apply."""
    planned = [claim for claim in claims if claim.models is not None]
    if planned:
        table = Table(title="What each claim could show")
        for name in _COLUMNS:
            table.add_column(
                name, justify="left" if name == _COLUMNS[0] else "right", overflow="fold"
            )
        for claim in planned:
            table.add_row(*_cells(claim))
        console.print(table)
    for claim in claims:
        if claim.models is None:
            console.print(f"- {claim.text}: {claim.reason}.", highlight=False, markup=False)
    score = assumptions.score
    source = f" (measured on {assumptions.num_cells} finished cells of this grid)"
    console.print(
        "Detectable: distance of the true difference from the margin (or from 0) at which the "
        "claim about these trained models has 80 % power. Power: probability of 'supported' if "
        "the true difference is 0, or the margin for claims of superiority. "
        f"Assumed{source if assumptions.num_cells else ''}: standard deviation "
        f"{score.sd_item_difference:.2g} of the difference of two cells on one question "
        f"({assumptions.attributable.sd_item_difference:.2g} for score minus blind score), "
        f"correlation {score.intra_image_correlation:.2g} within an image, "
        f"{100 * score.training_sd:.2g} points between trainings, "
        f"{100 * IMAGE_CONTRIBUTION:g} points contributed by the image. "
        "Claims about recipes need replicated cells (--replicate). See docs/guides/claims.md.",
        soft_wrap=True,
        highlight=False,
    )


def describe_cheapest(claim: PlannedClaim) -> str:
    """Describe the cheapest design that decides a claim about the recipes with 80 % power."""
    if claim.recipe is None or claim.recipe.cheapest is None:
        return "none"
    seeds = claim.seeds_per_cell
    return f"{seeds} seeds, {claim.recipe.cheapest.num_images:,} images"


def _cells(claim: PlannedClaim) -> tuple[str, ...]:
    size, models, recipe = claim.size, claim.models, claim.recipe
    return (
        f"{escape(claim.text)}\n[dim]{escape(claim.detail)}[/dim]",
        "" if size is None else f"{size.num_questions:,}",
        "" if size is None else f"{size.num_images:,}",
        str(claim.num_pairs),
        str(claim.num_seeds),
        "" if models is None or models.detectable is None else f"{100 * models.detectable:.1f}",
        _percent(models),
        _percent(recipe) if recipe is not None and recipe.plan.df else "not decidable",
        describe_cheapest(claim),
    )


def _percent(summary: PowerSummary | None) -> str:
    return "" if summary is None else f"{100 * summary.power:.0f} %"

"""Power of claims about recipes before training, from assumed variances.

The assumptions have defaults that were measured on the embedded profile. A finished grid with the
same benchmark provides better ones (`power_assumptions.measure_assumptions`).
"""

import dataclasses
import math

from core.errors import ConfigError
from evaluation.statistics.claim_tests import ClaimTest, StudentDifference, decision_power
from evaluation.statistics.decisions import ALPHA
from evaluation.statistics.trainings.power_assumptions import (
    INTRA_IMAGE_CORRELATION,
    NOISE_SHARE,
    SD_ITEM_DIFFERENCE,
    TRAINING_SD,
)
from evaluation.statistics.trainings.training_variance import MIN_TRAINING_DF, difference_df
from evaluation.statistics.uncertainty import POWER

SEED_COST = 100.0
"""Assumed cost of one more training of both recipes, in units of one more image with its
questions. It is a convention, not a measurement."""
MAX_SEEDS, MAX_IMAGES = 30, 1_000_000
"""Largest designs that are considered."""

_NUM_BISECTIONS = 40


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ClaimPlan:
    """Assumptions about a planned comparison of two recipes and the claim that it decides."""

    num_images: int
    """Number of images of the benchmark."""
    items_per_image: float
    """Mean number of questions per image."""
    num_seeds: int
    """Trainings of each of the two recipes."""
    test: ClaimTest | str
    delta: float
    """Margin, in units of the score."""
    true_difference: float = 0.0
    """True difference, first minus second."""
    sd_item_difference: float = SD_ITEM_DIFFERENCE
    """Standard deviation of the difference of two single trainings of different recipes on one
    item."""
    intra_image_correlation: float = INTRA_IMAGE_CORRELATION
    """Correlation of these differences between the items of an image."""
    noise_share: float = NOISE_SHARE
    """Part of the variance of these differences that changes with every training. More seeds reduce
    this part, and only more images reduce the rest."""
    training_sd: float | None = TRAINING_SD
    """Standard deviation of the shift of a whole training; None for a claim about the trained
    models instead of their recipes."""
    training_df: int | None = None
    """Degrees of freedom of the estimated training variance; None for those of the two recipes
    alone, 2 (num_seeds - 1)."""
    alpha: float = ALPHA
    """One-sided level of the family of claims."""
    num_claims: int = 1
    """Number of claims that are corrected together. One claim is tested at alpha / num_claims, the
    strictest step of Holm's correction."""

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        limits = {
            "num_images": (2, math.inf), "items_per_image": (1, math.inf),
            "num_seeds": (1, math.inf), "num_claims": (1, math.inf), "delta": (0, math.inf),
            "sd_item_difference": (0, math.inf), "intra_image_correlation": (-1, 1),
            "noise_share": (0, 1), "alpha": (0, 0.5),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name} is {value}; expected a number in {low} .. {high}")

    @property
    def standard_error(self) -> float:
        """Standard error of the estimated difference."""
        return math.sqrt(self._image_variance + self._training_variance)

    @property
    def df(self) -> float:
        """Degrees of freedom of the standard error; 0 if training variance can't be estimated."""
        if self.training_sd is None:
            return self.num_images - 1
        trainings = 2 * (self.num_seeds - 1) if self.training_df is None else self.training_df
        if trainings < MIN_TRAINING_DF:
            return 0
        total = self._image_variance + self._training_variance
        between = self._noise_variance + self._training_variance
        return difference_df(between / total if total else 0.0, trainings, self.num_images - 1)

    @property
    def power(self) -> float:
        """Probability that the claim is supported; 0 if the claim can't be decided."""
        return self._power_at(self.true_difference, self.test, self.delta)

    @property
    def detectable(self) -> float | None:
        """Distance of the true difference from the margin that is detected with 80 % power.

        It is None if the claim can't be decided with any distance.
        """
        if not self.df:
            return None
        low, high = 0.0, 100 * self.standard_error
        for _ in range(_NUM_BISECTIONS):
            middle = (low + high) / 2
            is_enough = self._power_at(middle, ClaimTest.SUPERIORITY, 0.0) >= POWER
            low, high = (low, middle) if is_enough else (middle, high)
        return high

    @property
    def _item_variance(self) -> float:
        """Variance of the mean difference of two single trainings due to items and images."""
        design_effect = max(0.0, 1 + (self.items_per_image - 1) * self.intra_image_correlation)
        num_items = self.num_images * self.items_per_image
        return self.sd_item_difference**2 * design_effect / num_items

    @property
    def _noise_variance(self) -> float:
        return self._item_variance * self.noise_share / self.num_seeds

    @property
    def _image_variance(self) -> float:
        return self._item_variance * (1 - self.noise_share) + self._noise_variance

    @property
    def _training_variance(self) -> float:
        return 2 * (self.training_sd or 0.0) ** 2 / self.num_seeds

    def _power_at(self, difference: float, test: ClaimTest | str, delta: float) -> float:
        if not self.df:
            return 0.0
        mean = StudentDifference(value=difference, standard_error=self.standard_error, df=self.df)
        return decision_power(mean, test=test, delta=delta, alpha=self.alpha / self.num_claims)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """Size of an experiment and its power."""

    num_images: int
    num_seeds: int
    power: float


def claim_power(  # noqa: PLR0913 - one keyword per assumption
    *,
    num_images: int,
    items_per_image: float,
    num_seeds: int,
    delta: float,
    test: ClaimTest | str,
    true_difference: float = 0.0,
    sd_item_difference: float = SD_ITEM_DIFFERENCE,
    intra_image_correlation: float = INTRA_IMAGE_CORRELATION,
    noise_share: float = NOISE_SHARE,
    training_sd: float | None = TRAINING_SD,
    training_df: int | None = None,
    alpha: float = ALPHA,
    num_claims: int = 1,
) -> float:
    """Return the probability that a planned claim is supported; see `ClaimPlan` for the arguments.

    The variance of the estimated difference is

        sd_item_difference^2 (1 + (items_per_image - 1) intra_image_correlation)
            / (num_images items_per_image) (1 - noise_share + noise_share / num_seeds)
        + 2 training_sd^2 / num_seeds.

    Raises:
        ConfigError: If a value is out of range, or the test is unknown.
    """
    return ClaimPlan(
        num_images=num_images,
        items_per_image=items_per_image,
        num_seeds=num_seeds,
        delta=delta,
        test=test,
        true_difference=true_difference,
        sd_item_difference=sd_item_difference,
        intra_image_correlation=intra_image_correlation,
        noise_share=noise_share,
        training_sd=training_sd,
        training_df=training_df,
        alpha=alpha,
        num_claims=num_claims,
    ).power


def cheapest_design(
    plan: ClaimPlan, *, power: float = POWER, seed_cost: float = SEED_COST
) -> Design | None:
    """Find the cheapest extension of a planned experiment that decides a claim.

    The images that the benchmark has cost nothing.

    Args:
        plan: Planned experiment; the design has at least its number of images.
        power: Power to be reached.
        seed_cost: Cost of one more training of both recipes, in units of one more image.

    Returns:
        The design, or None if no design with up to `MAX_SEEDS` trainings of each recipe and
        `MAX_IMAGES` images reaches the power, for example because the claim is false.
    """
    seeds = range(1, 2 if plan.training_sd is None else MAX_SEEDS + 1)
    found: list[tuple[float, ClaimPlan]] = []
    for num_seeds in seeds:
        larger = dataclasses.replace(plan, num_seeds=num_seeds, training_df=None)
        num_images = _images_needed(larger, power)
        if num_images is not None:
            cost = num_images - plan.num_images + seed_cost * num_seeds
            found.append((cost, dataclasses.replace(larger, num_images=num_images)))
    if not found:
        return None
    best = min(found, key=lambda candidate: candidate[0])[1]
    return Design(num_images=best.num_images, num_seeds=best.num_seeds, power=best.power)


def _images_needed(plan: ClaimPlan, power: float) -> int | None:
    """Return the smallest number of images from that of the plan on that reaches a power."""
    low, high = plan.num_images, max(plan.num_images, MAX_IMAGES)
    if dataclasses.replace(plan, num_images=high).power < power:
        return None
    while low < high:
        middle = (low + high) // 2
        is_enough = dataclasses.replace(plan, num_images=middle).power >= power
        low, high = (low, middle) if is_enough else (middle + 1, high)
    return high


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PowerSummary:
    """Power of a planned experiment for one claim."""

    plan: ClaimPlan
    detectable: float | None
    """Distance of the true difference from the margin that is detected with 80 % power."""
    power: float
    """Power at the true difference that the plan assumes."""
    cheapest: Design | None
    """Cheapest experiment with 80 % power at that difference."""


def describe_power(plan: ClaimPlan) -> PowerSummary:
    """Summarise what a planned experiment can show about a claim."""
    cheapest = cheapest_design(plan)
    return PowerSummary(plan=plan, detectable=plan.detectable, power=plan.power, cheapest=cheapest)

"""Results of the grid of one target language: scores by share, smallest sufficient share."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from core.chat.format import load_tokenizer
from core.errors import DataError
from core.languages import language_file
from core.yaml_text import read_yaml
from evaluation.benchmarks.items import load_benchmarks
from evaluation.statistics.intervals import Interval, mean_interval
from evaluation.statistics.resampling import bootstrap_rows, total_clusters
from evaluation.statistics.trainings.training_variance import TrainingVariance, training_variance
from reporting.claims.claim_decisions import shows_nothing
from reporting.claims.hypotheses_schema import ClaimKind
from reporting.claims.measures import Measure, Measurements, deciding_column
from reporting.claims.paired_scores import align_items
from reporting.records import GridRecord
from reporting.settings import SHARE

ABOUT = "about.yaml"
"""File of a language folder with its script, family and relatedness to English."""
MARGIN = 0.03
"""A share is sufficient if its accuracy is within this of the best, as in registered claims."""
SMALL = 0.2
"""The share that is claimed to suffice."""
_FULL = 1.0
_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageAbout:
    """Typology of a language."""

    script: str
    """ISO 15924 code of the script."""
    family: str
    relatedness: float
    """To English: 2 the same branch, 1 the same family, 0 neither."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate with its standard error and 95 % interval over images."""

    value: float
    standard_error: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageResult:
    """Results of one target language; accuracies and shares are fractions."""

    code: str
    about: LanguageAbout
    token_ratio: float
    """Tokens of its questions relative to those of the same questions in the base language."""
    scores: Mapping[float, Interval]
    """Share -> accuracy on open questions."""
    silent: tuple[float, ...]
    """Shares whose cells do not exceed their blind and majority baselines."""
    difference: Estimate
    """Accuracy with 20 % minus accuracy with 100 %."""
    threshold: Estimate
    """Smallest share within the margin of the best, interpolated linearly between shares."""
    num_trainings: Mapping[float, int]
    """Share -> number of trainings of its cell."""
    trainings: TrainingVariance | None = None
    """Variance between trainings of one cell; None if every cell was trained once."""


def with_training_variance(
    results: Sequence[LanguageResult],
) -> tuple[list[LanguageResult], TrainingVariance | None]:
    """Add the variance between trainings to the standard errors of the differences.

    The variance is pooled over languages and shares, because two or three trainings of one cell
    alone say little. Intervals of single languages stay those over images.

    Returns:
        The results and the pooled variance; the results as they are and None if every cell was
        trained once.
    """
    parts = [one.trainings for one in results if one.trainings is not None]
    if not parts:
        return list(results), None
    df = sum(part.df for part in parts)
    pooled = TrainingVariance(
        between=sum(part.df * part.between for part in parts) / df,
        noise=sum(part.df * part.noise for part in parts) / df,
        df=df,
        num_cells=sum(part.num_cells for part in parts),
    )
    return [_with_variance(one, pooled.variance) for one in results], pooled


def _with_variance(result: LanguageResult, variance: float) -> LanguageResult:
    counts = [result.num_trainings[share] for share in (SMALL, _FULL)]
    error = math.hypot(
        result.difference.standard_error, math.sqrt(variance * sum(1 / count for count in counts))
    )
    difference = dataclasses.replace(result.difference, standard_error=error)
    return dataclasses.replace(result, difference=difference)


def load_about(code: str) -> LanguageAbout:
    """Read the typology of a language.

    Raises:
        DataError: If the language has no such file.
    """
    path = language_file(code, ABOUT)
    if not path.is_file():
        raise DataError(f"{path} does not exist; write script, family and relatedness", "missing")
    raw = read_yaml(path, LanguageAbout)
    return LanguageAbout(**raw)


def language_result(grid: GridRecord, *, tokens: float) -> LanguageResult:
    """Summarise the grid of a language; several trainings of a cell are averaged.

    Args:
        grid: The grid.
        tokens: Tokens of its questions relative to the base language (`token_ratio`).

    Raises:
        DataError: If cells have not run yet.
    """
    measure = Measure(
        kind=ClaimKind.VQA,
        language=grid.target_language,
        column=deciding_column(grid.deciding_metric),
    )
    cells = {float(str(dict(c)[SHARE])): v for c, v in Measurements(grid).cells(measure).items()}
    if missing := sorted({SMALL, _FULL} - cells.keys()):
        raise DataError(f"{grid.folder}: the share {missing[0]:g} has not run yet", "missing")
    shares = sorted(cells)
    parts = align_items(cells[share] for share in shares)
    scores_SI, images = np.stack([part.values for part in parts]), parts[0].images
    means_RS = bootstrap_rows(total_clusters(scores_SI, images), seed=_SEED)
    small, full = shares.index(SMALL), shares.index(_FULL)
    means_S = scores_SI.mean(axis=1)
    thresholds_R = np.array([sufficient_share(shares, row) for row in means_RS])
    return LanguageResult(
        code=grid.target_language,
        about=load_about(grid.target_language),
        token_ratio=tokens,
        scores={
            share: mean_interval(row, images, seed=_SEED)
            for share, row in zip(shares, scores_SI, strict=True)
        },
        silent=tuple(share for share in shares if shows_nothing(cells[share])),
        difference=_summarise(
            means_S[small] - means_S[full], means_RS[:, small] - means_RS[:, full]
        ),
        threshold=_summarise(sufficient_share(shares, means_S), thresholds_R),
        num_trainings={share: len(cells[share].seeds) for share in shares},
        trainings=training_variance([part.to_seed_scores() for part in parts]),
    )


def sufficient_share(shares: Sequence[float], means_S: np.ndarray) -> float:
    """Return the smallest share whose interpolated accuracy is within the margin of the best."""
    target = float(means_S.max()) - MARGIN
    at = int(np.argmax(means_S >= target))
    if at == 0:
        return shares[0]
    low, high = float(means_S[at - 1]), float(means_S[at])
    return shares[at - 1] + (shares[at] - shares[at - 1]) * (target - low) / (high - low)


def _summarise(value: float, values_R: np.ndarray) -> Estimate:
    low, high = np.quantile(values_R, [0.025, 0.975])
    return Estimate(
        value=float(value),
        standard_error=float(values_R.std(ddof=1)),
        low=float(low),
        high=float(high),
    )


def token_ratio(manifest: Path, folder: str, *, base: str, target: str) -> float:
    """Return the tokens of a benchmark's questions relative to those in the base language.

    Args:
        manifest: Manifest of the benchmark, whose questions are parallel.
        folder: Folder of the language model with its tokenizer.
        base: Base language.
        target: Target language.
    """
    tokenizer = load_tokenizer(Path(folder))
    counts = {base: 0, target: 0}
    for item in load_benchmarks([manifest], languages=(base, target)):
        counts[item.language] += len(tokenizer(item.question)["input_ids"])
    return counts[target] / counts[base]

"""The report about several languages: thresholds, averages, covariates, and what is left open."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.statistics.intervals import Interval
from evaluation.statistics.trainings.training_variance import TrainingVariance
from reporting.languages.page import conclusions, write_language_page
from reporting.languages.results import (
    Estimate,
    LanguageAbout,
    LanguageResult,
    language_result,
    load_about,
    sufficient_share,
    token_ratio,
    with_training_variance,
)
from tests.support.scored_grid import scored_grid, sees

_LANGUAGES = ("eu", "ca", "cy", "es", "ga", "gl", "ka", "fr", "is")


def _result(code: str, threshold: float, ratio: float = 1.5) -> LanguageResult:
    score = Interval(value=0.5, low=0.4, high=0.6, num_items=100, num_clusters=50)
    about = LanguageAbout(script="Latn", family="Celtic", relatedness=1)
    return LanguageResult(
        code=code, about=about, token_ratio=ratio, scores={0.2: score, 1.0: score}, silent=(),
        difference=Estimate(value=-0.1, standard_error=0.02, low=-0.14, high=-0.06),
        threshold=Estimate(value=threshold, standard_error=0.05, low=threshold, high=threshold),
        num_trainings={0.2: 3, 1.0: 1},
    )  # fmt: skip


def test_the_sufficient_share_is_interpolated() -> None:
    shares = (0.0, 0.2, 0.5, 1.0)
    assert sufficient_share(shares, np.array([0.0, 0.3, 0.5, 0.53])) == pytest.approx(0.5)
    # Halfway between 20 and 50 %, the line from 0.3 to 0.5 reaches 0.43 - 0.03.
    assert sufficient_share(shares, np.array([0.0, 0.3, 0.5, 0.43])) == pytest.approx(0.455)
    assert sufficient_share(shares, np.array([0.5, 0.5, 0.5, 0.5])) == 0.0


@pytest.mark.slow
def test_a_grid_is_summarised_from_its_replies(tmp_path: Path) -> None:
    chances = {0.0: 0.1, 0.2: 0.5, 1.0: 0.8}

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        return sees(chances[axes["target_share"]], 0.05)(axes, row, rng)

    shares = [
        {"target_share": share, "text_only": False, "backbone": "general", "stages": "both",
         "seed": 0}
        for share in chances
    ]  # fmt: skip
    grid, _ = scored_grid(tmp_path, scorer, cells=shares)
    found = language_result(grid, tokens=1.4)
    assert (found.code, found.about.family) == ("eu", "isolate")
    assert found.difference.value == pytest.approx(-0.3, abs=0.12)
    assert found.difference.low < found.difference.value < found.difference.high < 0
    assert 0.2 < found.threshold.value < 1.0
    assert 0.0 in found.silent  # below the majority score of 0.2


def test_trainings_widen_the_standard_errors_by_their_pooled_variance() -> None:
    plain = [_result(code, 0.5) for code in _LANGUAGES]
    assert with_training_variance(plain) == (plain, None)
    variances = [TrainingVariance(between=0.0005, noise=0.0001, df=2, num_cells=1),
                 TrainingVariance(between=0.0002, noise=0.0001, df=4, num_cells=2)]  # fmt: skip
    mixed = [dataclasses.replace(one, trainings=variance)
             for one, variance in zip(plain, [*variances, *[None] * 7], strict=True)]  # fmt: skip
    found, pooled = with_training_variance(mixed)
    assert pooled is not None
    assert (pooled.df, pooled.num_cells) == (6, 3)
    assert pooled.variance == pytest.approx(0.0002)  # (2 * 0.0004 + 4 * 0.0001) / 6
    # 0.02^2 over images, and 1/3 + 1/1 of the variance of a training.
    assert found[-1].difference.standard_error ** 2 == pytest.approx(0.0004 + 0.0002 * 4 / 3)
    assert (found[0].difference.low, found[0].difference.high) == (-0.14, -0.06)
    assert "differ by a standard deviation of 1.4 points" in conclusions(found, pooled)[-1]


@pytest.mark.slow
def test_trainings_of_a_cell_are_averaged(tmp_path: Path) -> None:
    shifts = {0: -0.1, 1: 0.0, 2: 0.1}
    cells = [
        {"target_share": share, "text_only": False, "backbone": "general", "stages": "both",
         "seed": seed}
        for share in (0.2, 1.0) for seed in (shifts if share == 0.2 else (0,))
    ]  # fmt: skip

    def scorer(axes: dict[str, Any], row: dict[str, Any], rng: np.random.Generator) -> Any:
        chance = 0.5 + shifts[axes["seed"]] if axes["target_share"] == 0.2 else 0.8
        return sees(chance, 0.05)(axes, row, rng)

    grid, _ = scored_grid(tmp_path, scorer, cells=cells)
    found = language_result(grid, tokens=1.4)
    assert found.num_trainings == {0.2: 3, 1.0: 1}
    assert found.trainings is not None
    assert (found.trainings.df, found.trainings.num_cells) == (2, 1)
    assert found.trainings.sd == pytest.approx(0.1, abs=0.05)
    assert found.difference.value == pytest.approx(-0.3, abs=0.12)


def test_shipped_languages_state_their_typology_and_fertility_is_counted() -> None:
    assert {code: load_about(code).script for code in _LANGUAGES}["ka"] == "Geor"
    ratio = token_ratio(
        Path("data/embedded/benchmark_withheld.manifest.json"),
        "data/embedded/models/lm_base_only", base="en", target="eu",
    )  # fmt: skip
    assert 0.5 < ratio < 3


def test_the_page_states_the_prediction_and_what_covariates_cannot_show(tmp_path: Path) -> None:
    results = [_result(code, 0.3 + 0.04 * at, 1.2 + 0.1 * at) for at, code in
               enumerate(_LANGUAGES)]  # fmt: skip
    page = write_language_page(results, tmp_path, missing="xx (no data)").read_text()
    assert "for a new language" in page
    assert "Left out: xx (no data)." in page
    assert "tokens relative to the base language" in page
    assert "not estimable" in page  # all languages of this test have one script
    flat = dataclasses.replace(results[0].threshold, value=0.2)
    lines = conclusions([dataclasses.replace(results[0], threshold=flat), *results[1:]])
    assert "Without " in lines[0]
    assert "on average" in lines[1]
    rising = [
        dataclasses.replace(
            one, scores={0.2: one.scores[0.2], 0.5: one.scores[0.2], 1.0: one.scores[1.0]},
            threshold=dataclasses.replace(one.threshold, value=0.9),
        )
        for one in results
    ]  # fmt: skip
    assert "still rises between 50 % and the largest share" in conclusions(rising)[1]
    alone = LanguageAbout(script="Geor", family="Celtic", relatedness=1)
    odd = [dataclasses.replace(results[0], about=alone), *results[1:]]
    assert "one language alone differs" in write_language_page(odd, tmp_path).read_text()
    silent = [dataclasses.replace(one, silent=(0.0, 0.2)) for one in results[:2]]
    (floor,) = (line for line in conclusions([*silent, *results[2:]]) if "do not exceed" in line)
    assert f"With 20 %, {results[0].code}, {results[1].code} do not exceed" in floor
    few = conclusions(results[:2])
    assert few == ["2 languages: at least 3 are needed for an average."]
    same = [dataclasses.replace(one, threshold=results[0].threshold) for one in results]
    assert any("standard deviation of 0.0" in line for line in conclusions(same))

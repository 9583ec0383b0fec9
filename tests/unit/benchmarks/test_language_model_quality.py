"""Levels of knowledge, and the ratio that a model's answers give."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.language_model_quality.answers import Scores
from benchmarks.language_model_quality.cards import write_card
from benchmarks.language_model_quality.levels import (
    Level,
    above_chance,
    load_levels,
    relative_score,
)
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality

ROOT = Path(__file__).resolve().parents[3]
LEVELS = load_levels(ROOT / "configs/recipes/knowledge_levels.yaml")


def test_the_levels_follow_from_the_published_accuracies() -> None:
    belebele = (73.89 - 25) / (92.67 - 25)
    mmlu = (50.37 - 25) / (66.67 - 25)
    xstorycloze = (61.22 - 50) / (83.52 - 50)
    assert pytest.approx((belebele + mmlu + xstorycloze) / 3) == LEVELS.partial
    assert pytest.approx(0.5553, abs=5e-5) == LEVELS.partial
    assert pytest.approx(0.8323, abs=5e-5) == LEVELS.adapted
    assert pytest.approx(0.7094, abs=5e-5) == LEVELS.base_score


def test_the_documented_levels_are_those_of_the_file() -> None:
    page = (ROOT / "docs/results/default-study.md").read_text(encoding="utf-8")
    assert f"**{LEVELS.partial:.3f}** | | **{LEVELS.adapted:.3f}**" in page
    for task in LEVELS.tasks.values():
        assert f"| {task.partial.base:.2f}, {task.partial.target:.2f} |" in page
        assert f"| {task.adapted.base:.2f}, {task.adapted.target:.2f} |" in page


@pytest.mark.parametrize(
    ("ratio", "level"),
    [
        (-0.2, Level.BASE_ONLY), (0.06, Level.BASE_ONLY), (0.07, None), (0.49, None),
        (0.50, Level.PARTIAL), (0.61, Level.PARTIAL), (0.62, None), (0.77, None),
        (0.78, Level.ADAPTED), (1.1, Level.ADAPTED), (float("nan"), None),
    ],
)  # fmt: skip
def test_a_ratio_between_levels_has_none(ratio: float, level: Level | None) -> None:
    assert LEVELS.level_of(ratio) is level


def test_a_ratio_is_averaged_over_types_and_not_over_questions() -> None:
    """Four questions with a chance of 1/2 and two that nobody guesses."""
    scores = Scores(
        types=np.array(["yes_no"] * 4 + ["open"] * 2),
        chances={"yes_no": 0.5, "open": 0.0},
        right={
            "en": np.array([True] * 4 + [True, True]),
            "eu": np.array([True, True, True, False, True, False]),
        },
    )
    assert scores.accuracy("eu", "yes_no") == 0.75
    assert scores.above_chance("eu") == [0.5, 0.5]
    assert scores.ratio("en", "eu") == pytest.approx(0.5)
    low, high = scores.ratio_interval("en", "eu")
    assert low < 0.5 < high
    assert scores.ratio_interval("en", "en") == (1.0, 1.0)


def test_guessing_scores_zero_and_a_guessed_base_language_gives_no_ratio() -> None:
    assert above_chance(0.25, 0.25) == 0
    assert above_chance(1.0, 0.5) == 1
    assert np.isnan(relative_score([0.0, 1.0], [0.5, 0.5]))


def write_text(folder: Path, name: str, text: str) -> None:
    samples = [ShardSample(key="0", content={"text": text})]
    shards = write_shards(folder, name, samples, per_shard=1)
    info = SourceInfo(
        name=name, language=name.rsplit("_", 1)[1], modality=Modality.TEXT, record="text",
        licence=f"licence of {name}", provenance={"made": "here"},
    )  # fmt: skip
    write_manifest(folder, info, shards)


def test_a_card_states_recipe_quality_and_fertility(tmp_path: Path) -> None:
    for kind in ("corpus_text", "corpus_chat", "corpus_listing", "corpus_yes_no"):
        for code in ("en", "eu"):
            write_text(tmp_path, f"{kind}_{code}", f"some text of {kind}")
    write_text(tmp_path, "fertility_ka", "წითელი ვაშლი")
    scores = Scores(
        types=np.array(["choice"] * 4),
        chances={"choice": 0.25},
        right={"en": np.array([True] * 4), "eu": np.array([True, True, True, False])},
    )
    card = write_card(ROOT / "data/embedded/models/lm_general", scores, tmp_path, "commit 12345")
    samples = " ".join(card[card.index("Samples per step") : card.index("Code")].split())
    assert "| choice | 25.0 | 4 | 100.0 [51.0, 100.0] | 75.0 [30.1, 95.4] |" in card
    assert "**0.667**" in card
    assert "between two levels" in card
    assert "licence of corpus_text_en" in card
    assert "1.68 Basque conversations, " in samples
    assert "0.77 Basque conversations about listings" in samples
    assert "* **Code**: commit 12345." in card
    assert "| ka | " in card
    assert "{" not in card

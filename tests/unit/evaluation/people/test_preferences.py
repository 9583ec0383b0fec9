"""Stored preferences, their estimates, and the comparison of a judge with people."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import DataError
from evaluation.people import run
from evaluation.people.comparison import SystemComparison
from evaluation.people.estimates import QuestionPopulation, estimate_net, select_judged
from evaluation.people.judge_agreement import (
    PreferenceClaim,
    combine,
    compare_with_people,
    orient,
    preference_decision,
)
from evaluation.people.measures import summarise_preferences
from evaluation.people.preferences import (
    PREFERENCE_SCHEMA,
    Opinion,
    PreferenceRecord,
    PreferenceSource,
    load_preferences,
    read_preferences,
    save_preferences,
)
from evaluation.people.store import AnnotationStore, Judgement
from evaluation.people.tasks import Task, TaskKind
from evaluation.statistics.decisions import Verdict
from tests.support.comparisons import record_of, simulated_comparison

EQUIVALENCE = PreferenceClaim(language="eu", test="equivalence", delta=0.1)


def noisy_pair(
    num_differing: int = 400, num_identical: int = 100, most: int = 150, noise: float = 0.4
) -> tuple[PreferenceRecord, PreferenceRecord]:
    """People on a random sample and a judge on all questions who agree up to noise."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(num_differing)
    people = record_of(
        simulated_comparison(num_differing, num_identical, most=most, per_image=2),
        np.sign(np.round(truth[:most] + noise * rng.standard_normal(most))),
        raters=("ane", "jon", "miren"),
    )
    judge = record_of(
        simulated_comparison(num_differing, num_identical, per_image=2),
        np.clip(np.round(truth + noise * rng.standard_normal(num_differing)) / 2, -1, 1),
        source=PreferenceSource.JUDGE,
        raters=("judge-model",),
    )
    return people, judge


def test_records_are_stored_without_loss(tmp_path: Path) -> None:
    people, judge = noisy_pair()
    paths = {save_preferences(tmp_path, record) for record in (people, judge)}
    loaded = load_preferences(tmp_path)
    assert len(paths) == len(loaded) == 2
    assert {record.source for record in loaded} == {*PreferenceSource}
    for record, original in zip(
        sorted(loaded, key=lambda r: r.source), (judge, people), strict=True
    ):
        assert record.comparison == original.comparison
        assert set(record.opinions) == set(original.opinions)
    assert save_preferences(tmp_path, people) in paths, "a later state replaces the earlier one"
    assert load_preferences(tmp_path / "none") == ()
    assert pq.read_table(min(paths)).schema.equals(PREFERENCE_SCHEMA)


def test_identical_replies_are_ties_over_all_questions() -> None:
    """On 747d039, the share was 100 % and the 75 equal replies were not reported."""
    record = record_of(simulated_comparison(25, 75), np.ones(25))
    found = summarise_preferences(record, language="eu", aspect="overall")
    every, differing = found.populations
    assert (found.num_questions, found.num_identical, found.num_judged) == (100, 75, 25)
    assert differing.share.value == 1.0
    assert every.share.value == pytest.approx(0.625)
    assert every.tie_rate.value == pytest.approx(0.75)
    assert every.win_rate.value == pytest.approx(0.25)
    assert differing.elo.value is None, "infinite without a loss"
    assert every.elo.value == pytest.approx(400 * np.log10(0.625 / 0.375))
    assert every.elo.low is not None
    assert every.elo.low > 0


def test_a_question_of_four_annotators_counts_once() -> None:
    """On 747d039, ten shared questions weighed as much as forty others."""
    comparison = simulated_comparison(50)
    placed = sorted((q.place, q.task_id) for q in comparison.questions if q.place is not None)
    opinions = [
        Opinion(task_id=task, rater=rater, aspect="overall", preference=1.0 if place < 10 else -1.0)
        for place, task in placed
        for rater in (("a", "b", "c", "d") if place < 10 else ("a",))
    ]
    record = PreferenceRecord(
        source=PreferenceSource.PEOPLE, comparison=comparison, opinions=tuple(opinions)
    )
    judged = select_judged(record, language="eu")
    assert estimate_net(judged).value == pytest.approx((10 - 40) / 50)
    summary = summarise_preferences(record, language="eu", aspect="overall")
    assert (summary.num_wins, summary.num_losses) == (40, 40)
    assert summary.populations[0].share.value == pytest.approx(0.2)


def test_a_sample_of_the_questions_is_weighted_to_all_of_them() -> None:
    record = record_of(simulated_comparison(200, 200, most=50), np.ones(50))
    found = summarise_preferences(record, language="eu", aspect="overall")
    assert (found.num_not_judged, found.sampling_fault) == (150, "")
    assert found.populations[0].net.value == pytest.approx(0.5)


def test_swapped_records_have_the_opposite_preference() -> None:
    people, judge = noisy_pair()
    first, second = people.comparison.first.sha256, people.comparison.second.sha256
    swapped = orient(judge, second, first)
    assert swapped is not None
    assert orient(judge, first, second) is judge
    assert orient(judge, first, "c" * 64) is None
    one, other = (estimate_net(select_judged(r, language="eu")) for r in (judge, swapped))
    assert one.value == pytest.approx(-other.value)
    same = [compare_with_people(people, r, language="eu") for r in (judge, judge.swapped())]
    assert same[0] == same[1], "the order of the systems in the judge's file does not matter"


def test_agreement_and_combination_of_a_judge_and_people() -> None:
    people, judge = noisy_pair()
    found = compare_with_people(people, judge, language="eu")
    assert (found.num_common, found.num_identical, found.num_unreadable) == (150, 100, 0)
    assert found.annotators == ("ane", "jon", "miren")
    assert found.judge == "judge-model"
    for interval in (found.agreement, found.kappa, found.pearson, found.spearman):
        assert interval is not None
        assert interval.low is not None
        assert interval.high is not None
        assert 0 < interval.low < interval.value < interval.high < 1
    assert found.power > 0.5
    assert found.width_ratio < 0.9
    powered, alone = found.powered, found.people
    assert None not in (powered.low, powered.high, alone.low, alone.high)
    noise = compare_with_people(*noisy_pair(noise=100.0), language="eu")
    assert noise.kappa is not None
    assert abs(noise.kappa.value) < 0.2
    assert noise.width_ratio > 0.95


def test_samples_that_are_not_random_are_refused() -> None:
    people, judge = noisy_pair()
    chosen = dataclasses.replace(people, opinions=people.opinions[10:])
    with pytest.raises(DataError, match="people sample in 'eu' is not random"):
        combine(chosen, judge, language="eu")
    found = preference_decision(chosen, EQUIVALENCE)
    assert found.verdict is Verdict.UNDECIDED
    assert found.reason.startswith("not a random sample: question 0 of the random order")
    unfinished = dataclasses.replace(people, opinions=people.opinions[:100])
    assert combine(unfinished, judge, language="eu").linearisation.num_items == 500
    outside = next(
        q.task_id for q in people.comparison.questions if q.place is None and not q.is_identical
    )
    extra = Opinion(task_id=outside, rater="ane", aspect="overall", preference=1.0)
    with pytest.raises(DataError, match="was not drawn"):
        dataclasses.replace(people, opinions=(*people.opinions, extra))
    short = dataclasses.replace(judge, opinions=judge.opinions[:100])
    with pytest.raises(DataError, match="50 questions in 'eu' that the judge"):
        combine(people, short, language="eu")
    with pytest.raises(DataError, match="expected people and a judge"):
        combine(judge, people, language="eu")


def test_draws_that_were_changed_by_hand_are_refused(tmp_path: Path) -> None:
    people, _ = noisy_pair()
    questions = list(people.comparison.questions)
    places = [i for i, q in enumerate(questions) if q.place in (3, 4)]
    one, other = places
    questions[one], questions[other] = (
        dataclasses.replace(questions[one], place=questions[other].place),
        dataclasses.replace(questions[other], place=questions[one].place),
    )
    moved = dataclasses.replace(people.comparison, questions=tuple(questions))
    path = save_preferences(tmp_path, dataclasses.replace(people, comparison=moved))
    with pytest.raises(DataError, match="not the random sample of seed 0: place 3"):
        read_preferences(path)


@pytest.mark.parametrize("population", [*QuestionPopulation])
@pytest.mark.parametrize("use_judge", [False, True])
def test_claims_about_preferences_are_decided(
    population: QuestionPopulation, use_judge: bool
) -> None:
    people, judge = noisy_pair(num_differing=1000, num_identical=0, most=500)
    combined = judge if use_judge else None
    claim = dataclasses.replace(EQUIVALENCE, population=population, delta=0.3)
    assert preference_decision(people, claim, judge=combined).verdict is Verdict.SUPPORTED
    better = PreferenceClaim(language="eu", test="superiority", delta=0.3, population=population)
    found = preference_decision(people, better, judge=combined)
    assert found.verdict is Verdict.REFUTED
    assert found.bounds_at is not None
    assert found.difference.low == pytest.approx(found.bounds_at(found.confidence)[0])


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "task_id": st.sampled_from(["a", "b", "c"]),
            "dataset": st.just("x"),
            "question_id": st.sampled_from(["1", "2"]),
            "language": st.sampled_from(["eu", "en"]),
            "image_key": st.sampled_from(["", "p1"]),
            "is_identical": st.booleans(),
            "place": st.none() | st.integers(-1, 3),
            "rater": st.none() | st.sampled_from(["ane", "jon"]),
            "aspect": st.none() | st.sampled_from(["overall", "content", "style"]),
            "preference": st.none() | st.floats(-2, 2) | st.just(float("nan")),
        }
    ),
    max_size=6,
)
METADATA = st.none() | st.sampled_from(
    [
        "{",
        "[]",
        "{}",
        json.dumps({"source": "people", "first": {}, "second": {}, "seed": 0, "most": 0}),
        json.dumps(
            {
                "source": "people",
                "first": {"name": "a", "predictions": "a", "sha256": "a"},
                "second": {"name": "b", "predictions": "b", "sha256": "b"},
                "seed": 0,
                "most": 0,
            }
        ),
    ]
)


@pytest.mark.slow
@given(ROWS, METADATA)
def test_foreign_files_of_preferences_are_read_or_rejected(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], metadata: str | None
) -> None:
    path = tmp_path_factory.mktemp("foreign") / "x.parquet"
    schema = PREFERENCE_SCHEMA.with_metadata(metadata and {"irudimen": metadata})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
    try:
        record = read_preferences(path)
    except DataError:
        return
    drawn = {q.task_id for q in record.comparison.questions if q.place is not None}
    for opinion in record.opinions:
        assert opinion.task_id in drawn
        assert opinion.preference is None or -1 <= opinion.preference <= 1


def test_damaged_files_are_rejected(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable file of preferences"):
        load_preferences(tmp_path)
    pq.write_table(pa.table({"task_id": ["a"]}), path)
    with pytest.raises(DataError, match="has the columns task_id"):
        load_preferences(tmp_path)


def store_with(tmp_path: Path, comparison: SystemComparison) -> AnnotationStore:
    placed = sorted((q.place, q) for q in comparison.questions if q.place is not None)
    tasks = [
        Task(
            task_id=question.task_id, kind=TaskKind.COMPARE, language="eu",
            image_key=question.image_key, question="Zer da hau?",
            content={"general": "a", "adapted": "b"},
        )
        for _, question in placed
    ]  # fmt: skip
    store = AnnotationStore.create(tmp_path / "people.db", tasks, overlap=0, comparison=comparison)
    for number, task in enumerate(tasks):
        answers = dict.fromkeys(
            ("content", "language", "overall"), ("general", "tie", "adapted", "skip")[number % 4]
        )
        store.judge(Judgement(task_id=task.task_id, annotator="ane", answers=answers))
    return store


@pytest.mark.slow
def test_the_command_saves_preferences_and_prints_the_agreement(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    comparison = simulated_comparison(60, 20, most=40, per_image=2)
    store = store_with(tmp_path, comparison)
    _, judge = noisy_pair(60, 20, most=40)
    verdicts = save_preferences(tmp_path / "judge", judge)
    database = ["--db", str(store.path)]
    assert run.main([*database, "--save", str(tmp_path / "preferences")]) == 0
    (saved,) = load_preferences(tmp_path / "preferences")
    assert len(saved.opinions) == 3 * 40
    assert sum(o.preference is None for o in saved.opinions) == 3 * 10
    out = tmp_path / "agreement.json"
    assert run.main([*database, "--judge", str(verdicts), "--out", str(out)]) == 0
    (found,) = json.loads(out.read_text())
    assert (found["language"], found["num_common"], found["num_identical"]) == ("eu", 30, 20)
    assert "kappa" in capsys.readouterr().out

"""Human annotation: distribution of tasks, storage, statistics, export and import."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from core.errors import ConfigError, DataError
from evaluation.benchmarks.predictions import SCHEMA, write_predictions
from evaluation.people import exchange, run
from evaluation.people.measures import acceptance, krippendorff, preferences
from evaluation.people.store import AnnotationStore, Judgement
from evaluation.people.tasks import Task, TaskKind, compare_tasks, validate_tasks


def compare(number: int) -> Task:
    return Task(
        task_id=f"vqa/{number}", kind=TaskKind.COMPARE, language="eu", image_key=f"p{number % 4}",
        question="Zer da hau?", content={"general": f"a{number}", "adapted": f"b{number}"},
    )  # fmt: skip


def validate(number: int) -> Task:
    return Task(
        task_id=str(number), kind=TaskKind.VALIDATE, language="eu", image_key="", question="",
        content={"source": "a dog", "translation": "txakur bat"},
    )  # fmt: skip


def answer(task: Task | str, annotator: str, *chosen: str) -> Judgement:
    names = ("content", "language", "overall")
    task_id = task if isinstance(task, str) else task.task_id
    return Judgement(
        task_id=task_id, annotator=annotator, answers=dict(zip(names, chosen, strict=True))
    )


@pytest.fixture
def store(tmp_path: Path) -> AnnotationStore:
    """Twelve comparisons, four of which all annotators judge."""
    return AnnotationStore.create(tmp_path / "x.db", [compare(i) for i in range(12)], overlap=4)


def judge_remaining(
    store: AnnotationStore, annotator: str, *chosen: str, most: int = 99
) -> list[str]:
    done = []
    while (task := store.next_task(annotator)) is not None and len(done) < most:
        store.judge(answer(task, annotator, *chosen))
        done.append(task.task_id)
    return done


def test_all_annotators_get_the_overlap_and_one_each_of_the_rest(store: AnnotationStore) -> None:
    first = judge_remaining(store, "ane", "general", "general", "general", most=7)
    assert store.progress("ane") == (7, 5)
    assert store.progress("jon") == (0, 9)
    second = judge_remaining(AnnotationStore(store.path), "jon", "tie", "tie", "tie")  # reopened
    assert set(first) & set(second) == {f"vqa/{i}" for i in range(4)}
    assert set(first) | set(second) == {f"vqa/{i}" for i in range(12)}
    assert store.next_task("ane") is None
    assert store.undo("jon") == second[-1]
    assert store.undo("nobody") is None
    assert store.next_task("jon").task_id == second[-1]  # type: ignore[union-attr]


def test_sides_are_randomised_per_annotator_and_task(tmp_path: Path) -> None:
    store = AnnotationStore.create(tmp_path / "y.db", [compare(i) for i in range(400)], overlap=0)
    left = [store.sides(task, "ane")[0] for task in store.tasks]
    assert 160 < left.count("general") < 240
    assert left == [store.sides(task, "ane")[0] for task in store.tasks]
    assert left != [store.sides(task, "jon")[0] for task in store.tasks]


def test_invalid_judgements_are_rejected_and_nothing_is_lost(
    store: AnnotationStore, tmp_path: Path
) -> None:
    task = store.tasks[0]
    for judgement in (
        answer("vqa/99", "ane", "tie", "tie", "tie"),
        answer(task, "", "tie", "tie", "tie"),
        answer(task, "a" * 61, "tie", "tie", "tie"),
        answer(task, "ane\n", "tie", "tie", "tie"),
        answer(task, "ane", "tie", "tie", "left"),
        Judgement(task_id=task.task_id, annotator="ane", answers={"overall": "tie"}),
    ):
        with pytest.raises(DataError):
            store.judge(judgement)
    assert not store.judgements()
    store.judge(answer(task, "ane", "tie", "tie", "general"))
    store.judge(answer(task, "ane", "tie", "tie", "adapted"))
    (stored,) = store.judgements()
    assert stored.answers["overall"] == "adapted"
    with pytest.raises(ConfigError, match="exists"):
        AnnotationStore.create(store.path, store.tasks, overlap=0)
    with pytest.raises(ConfigError, match="one kind"):
        AnnotationStore.create(tmp_path / "z.db", [compare(0), validate(1)], overlap=0)
    (tmp_path / "no.db").write_bytes(b"x" * 5000)
    with pytest.raises(ConfigError, match="not an annotation database"):
        AnnotationStore(tmp_path / "no.db")


def test_preferences_with_ties_and_agreement(store: AnnotationStore) -> None:
    with pytest.raises(DataError, match="nothing has been judged"):
        preferences(store)
    for number, task in enumerate(store.tasks):
        better = ("general", "general", "general", "adapted", "tie", "skip")[number % 6]
        store.judge(answer(task, "ane", better, "tie", better))
    for task in store.tasks[:4]:
        store.judge(answer(task, "jon", "general", "tie", "general"))
    found = preferences(store)["overall"]
    assert (found.first, found.second) == ("adapted", "general")
    assert (found.wins, found.losses, found.ties, found.skipped) == (2, 10, 2, 2)
    assert found.share == pytest.approx(3 / 14)
    assert found.low < found.share < found.high < 0.5
    assert found.elo_low < found.elo < found.elo_high < 0
    assert found.alpha is not None
    language = preferences(store)["language"]
    assert (language.share, language.elo, language.alpha) == (0.5, 0.0, None)


def test_krippendorff_alpha_of_his_own_example() -> None:
    """Content Analysis (2004), 11.3.4: four observers, twelve units, nominal alpha 0.743."""
    table = (
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    )
    ratings = [
        (str(unit), str(observer), value)
        for observer, row in enumerate(table)
        for unit, value in enumerate(row.split())
        if value != "."
    ]
    assert krippendorff(ratings) == pytest.approx(0.743, abs=5e-4)
    assert krippendorff([("1", "a", "x"), ("2", "b", "y")]) is None
    assert krippendorff([("1", "a", "x"), ("1", "b", "x"), ("2", "a", "y"), ("2", "b", "y")]) == 1


def test_acceptance_of_translations(tmp_path: Path) -> None:
    store = AnnotationStore.create(tmp_path / "v.db", [validate(i) for i in range(10)], overlap=2)
    verdicts = ["accept"] * 7 + ["fix", "reject", "skip"]
    for task, verdict in zip(store.tasks, verdicts, strict=True):
        answers = {"verdict": verdict} | ({"text": "txakurra"} if verdict == "fix" else {})
        store.judge(Judgement(task_id=task.task_id, annotator="ane", answers=answers))
    found = acceptance(store)
    assert (found.accepted, found.fixed, found.rejected, found.skipped) == (7, 1, 1, 1)
    assert found.share == pytest.approx(7 / 9)
    assert (found.low, found.high) == pytest.approx((0.453, 0.937), abs=1e-3)
    with pytest.raises(DataError, match="fix needs a text"):
        store.judge(
            Judgement(task_id="0", annotator="jon", answers={"verdict": "fix", "text": " "})
        )
    with pytest.raises(DataError, match="not comparisons"):
        preferences(store)


@pytest.mark.parametrize("kind", ["labelstudio", "argilla"])
def test_export_and_import_are_lossless(store: AnnotationStore, tmp_path: Path, kind: str) -> None:
    judge_remaining(store, "ane", "general", "tie", "adapted", most=6)
    judge_remaining(store, "jon", "skip", "tie", "tie")
    path = tmp_path / "out.json"
    assert run.main(["--db", str(store.path), "--export", kind, str(path)]) == 0
    other = AnnotationStore.create(tmp_path / "other.db", store.tasks, overlap=4)
    assert run.main(["--db", str(other.path), "--import", kind, str(path)]) == 0
    assert other.judgements() == store.judgements()
    assert len(exchange.to_csv(store).splitlines()) == 1 + len(store.judgements())
    path.write_text(path.read_text().replace("vqa/3", "vqa/77"))
    third = AnnotationStore.create(tmp_path / "third.db", store.tasks, overlap=4)
    assert run.main(["--db", str(third.path), "--import", kind, str(path)]) == 2
    assert not third.judgements(), "all or none"
    path.write_text("[1, 2]")
    assert run.main(["--db", str(third.path), "--import", kind, str(path)]) == 2


def predictions(path: Path, outputs: list[str]) -> Path:
    empty = {"answers": [["x"]] * len(outputs), "choices": [[]] * len(outputs)}
    table = {}
    for field in SCHEMA:
        if field.name in empty:
            table[field.name] = empty[field.name]
        elif pa.types.is_string(field.type):
            table[field.name] = ["eu" if field.name == "language" else "x"] * len(outputs)
        elif pa.types.is_boolean(field.type):
            table[field.name] = [False] * len(outputs)
        else:
            table[field.name] = [0] * len(outputs)
    table |= {"question_id": [str(i) for i in range(len(outputs))], "output": outputs}
    write_predictions(path, pa.table(table, schema=SCHEMA))
    return path


def test_pairs_of_equal_replies_are_left_out(tmp_path: Path) -> None:
    first = predictions(tmp_path / "a.parquet", ["bat", "bi", "hiru", "lau"])
    second = predictions(tmp_path / "b.parquet", ["bat ", "BI", "hiru!", "bost"])
    tasks = compare_tasks(first, second, ("a", "b"), language="eu", most=0)
    assert sorted(task.task_id for task in tasks) == ["x/1", "x/2", "x/3"]
    assert len(compare_tasks(first, second, ("a", "b"), language="eu", most=2)) == 2
    with pytest.raises(DataError, match="are equal"):
        compare_tasks(first, first, ("a", "b"), language="eu", most=0)
    with pytest.raises(DataError, match="two different names"):
        compare_tasks(first, second, ("a", "left"), language="eu", most=0)
    shorter = predictions(tmp_path / "c.parquet", ["bat"])
    with pytest.raises(DataError, match="not the same"):
        compare_tasks(first, shorter, ("a", "b"), language="eu", most=0)


def test_errors_in_translated_items_report_the_line(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    good = {"id": 1, "language": "eu", "source": "dog", "translation": "txakur"}
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(good | {"id": 2}) + "\n")
    assert len(validate_tasks(path, most=0)) == 2
    path.write_text(json.dumps(good) + "\n" + json.dumps(good))
    with pytest.raises(DataError, match="twice"):
        validate_tasks(path, most=0)
    path.write_text(json.dumps(good) + '\n{"id": 3}')
    with pytest.raises(DataError, match="line 2"):
        validate_tasks(path, most=0)

"""Human annotation: distribution of tasks, storage, statistics, export and import."""

import dataclasses
import json
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import ConfigError, DataError
from evaluation.benchmarks.images import ImageLookup
from evaluation.benchmarks.predictions import SCHEMA, read_predictions, write_predictions
from evaluation.people import argilla, exchange, label_studio, run
from evaluation.people.comparison import compare_systems, draw_order
from evaluation.people.measures import acceptance, preferences
from evaluation.people.store import AnnotationStore, Judgement
from evaluation.people.tasks import Task, TaskKind, validate_tasks
from tests.support.comparisons import comparison_of
from tests.support.small_world import image


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


def compared(path: Path, tasks: Sequence[Task], *, overlap: int) -> AnnotationStore:
    return AnnotationStore.create(path, tasks, overlap=overlap, comparison=comparison_of(tasks))


@pytest.fixture
def store(tmp_path: Path) -> AnnotationStore:
    """Twelve comparisons, four of which all annotators judge."""
    return compared(tmp_path / "x.db", [compare(i) for i in range(12)], overlap=4)


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
    store = compared(tmp_path / "y.db", [compare(i) for i in range(400)], overlap=0)
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
    content, language, overall = preferences(store)
    assert (content.aspect, language.aspect, overall.aspect) == ("content", "language", "overall")
    assert (overall.first, overall.second) == ("general", "adapted")
    counts = (overall.num_wins, overall.num_losses, overall.num_ties, overall.num_skipped)
    assert counts == (10, 2, 2, 2)
    every, differing = overall.populations
    # Ten questions: five general, one disputed by the two annotators (half), two adapted or tie.
    assert every.share.value == differing.share.value
    assert differing.share.value == pytest.approx((6 + 0.5 + 0 + 0.5 + 0.5 + 0) / 10)
    assert differing.share.low is None, "four images are too few for an interval"
    assert overall.alpha is not None
    assert (language.populations[1].share.value, language.populations[1].elo.value) == (0.5, 0.0)
    assert language.alpha is None


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
    same = {"verdict": "fix", "text": f" {store.task('0').content['translation']}\n"}
    with pytest.raises(DataError, match="is that of the translation; change it, or accept it"):
        store.judge(Judgement(task_id="0", annotator="jon", answers=same))
    with pytest.raises(DataError, match="not comparisons"):
        preferences(store)


@pytest.mark.parametrize("kind", ["labelstudio", "argilla"])
def test_export_and_import_are_lossless(store: AnnotationStore, tmp_path: Path, kind: str) -> None:
    judge_remaining(store, "ane", "general", "tie", "adapted", most=6)
    judge_remaining(store, "jon", "skip", "tie", "tie")
    path = tmp_path / "out.json"
    assert run.main(["--db", str(store.path), "--export", kind, str(path)]) == 0
    other = compared(tmp_path / "other.db", store.tasks, overlap=4)
    assert run.main(["--db", str(other.path), "--import", kind, str(path)]) == 0
    assert other.judgements() == store.judgements()
    assert len(exchange.to_csv(store).splitlines()) == 1 + len(store.judgements())
    path.write_text(path.read_text().replace("vqa/3", "vqa/77"))
    third = compared(tmp_path / "third.db", store.tasks, overlap=4)
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


def test_equal_replies_are_counted_but_not_shown(tmp_path: Path) -> None:
    first = predictions(tmp_path / "a.parquet", ["bat", "bi", "hiru", "lau"])
    second = predictions(tmp_path / "b.parquet", ["bat ", "BI", "hiru!", "bost"])
    comparison, tasks = compare_systems((first, second), ("a", "b"), languages=["eu"])
    assert sorted(task.task_id for task in tasks) == ["eu/x/1", "eu/x/2", "eu/x/3"]
    assert [question.is_identical for question in comparison.questions] == [True] + [False] * 3
    two, drawn = compare_systems((first, second), ("a", "b"), languages=["eu"], most=2)
    assert [task.task_id for task in drawn] == [task.task_id for task in tasks[:2]]
    assert sum(question.place is not None for question in two.questions) == 2
    two.check_draw()
    assert compare_systems((first, first), ("a", "b"), languages=["eu"])[1] == []
    with pytest.raises(DataError, match="two different names"):
        compare_systems((first, second), ("a", "left"), languages=["eu"])
    with pytest.raises(DataError, match="0 and 0 questions in 'eu' of wildvision"):
        compare_systems((first, second), ("a", "b"), languages=["eu"], datasets=["wildvision"])
    shorter = predictions(tmp_path / "c.parquet", ["bat"])
    with pytest.raises(DataError, match="which differ"):
        compare_systems((first, shorter), ("a", "b"), languages=["eu"])
    pairs = ["--pairs", f"a={first}", f"b={first}"]
    assert run.main(["--db", str(tmp_path / "d.db"), *pairs]) == 2, "all replies are equal"


def test_systems_are_compared_in_their_target_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = tmp_path / "evaluate" / "a1" / "result"
    result.mkdir(parents=True)
    in_store = predictions(result / "predictions.parquet", ["bat", "bi"])
    copied = predictions(tmp_path / "copied.parquet", ["bat", "hiru"])
    assert compare_systems((copied, in_store), ("a", "b"), languages=[])[0].languages == ("eu",)
    (result.parent / "stage.json").write_text('{"config": {"languages": ["en", "ga"]}}')
    with pytest.raises(DataError, match="0 and 0 questions in 'ga'"):
        compare_systems((in_store, copied), ("a", "b"), languages=[])
    monkeypatch.chdir(result)
    here = Path("predictions.parquet")
    with pytest.raises(DataError, match="0 and 0 questions in 'ga'"):
        compare_systems((here, copied), ("a", "b"), languages=[])
    table = read_predictions(copied)
    other = table.set_column(
        table.schema.get_field_index("language"), "language", pa.array(["eu", "en"])
    )
    write_predictions(copied, other.cast(SCHEMA))
    with pytest.raises(DataError, match=r"questions in en, eu, .* choose with --language"):
        compare_systems((copied, in_store), ("a", "b"), languages=[])


def test_the_draw_depends_on_the_seed_and_the_language_only() -> None:
    ids = [f"q{i}" for i in range(50)]
    drawn = draw_order(ids, "eu", most=10, seed=3)
    assert drawn == draw_order(ids[::-1], "eu", most=10, seed=3)
    assert drawn == draw_order(ids, "eu", most=0, seed=3)[:10]
    assert drawn != draw_order(ids, "es", most=10, seed=3)
    assert drawn != draw_order(ids, "eu", most=10, seed=4)


@pytest.mark.parametrize("kind", ["labelstudio", "argilla"])
def test_exports_for_annotators_are_blind_and_keep_ties(
    store: AnnotationStore, tmp_path: Path, kind: str
) -> None:
    judge_remaining(store, "ane", "general", "tie", "adapted", most=3)
    judge_remaining(store, "jon", "tie", "skip", "tie", most=3)
    text = {"labelstudio": label_studio.to_label_studio, "argilla": argilla.to_argilla}[kind](store)
    assert "general" not in text
    assert "adapted" not in text
    assert text.count('"tie"') == 3 + 6
    revealed = re.sub(r'"left"(?!:)', '"general"', text)
    other = compared(tmp_path / "other.db", store.tasks, overlap=4)
    parse = {"labelstudio": read_label_studio, "argilla": read_argilla}[kind]
    with pytest.raises(DataError, match="hidden"):
        exchange.import_judgements(other, parse(revealed))
    assert not other.judgements()


def test_cancelled_annotations_of_label_studio_are_skipped_tasks(store: AnnotationStore) -> None:
    tasks = json.loads(label_studio.to_label_studio(store))
    tasks[2]["annotations"] = [
        {"completed_by": {"email": "a@b"}, "was_cancelled": True, "result": []}
    ]
    found, left_out = label_studio.from_label_studio(json.dumps(tasks))
    assert exchange.import_judgements(store, found) == 1
    assert not left_out
    (judgement,) = store.judgements()
    assert set(judgement.answers.values()) == {"skip"}


def test_a_part_of_the_answers_is_left_out_and_named(
    store: AnnotationStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One such annotation used to refuse the whole file without naming the task."""
    judge_remaining(store, "ane", "general", "tie", "adapted", most=2)
    tasks = json.loads(label_studio.to_label_studio(store))
    results = tasks[1]["annotations"][0]["result"]
    results[:] = [part for part in results if part["from_name"] != "overall"]
    (tmp_path / "out.json").write_text(json.dumps(tasks))
    other = compared(tmp_path / "other.db", store.tasks, overlap=4)
    words = ["--db", str(other.path), "--import", "labelstudio", str(tmp_path / "out.json")]
    assert run.main(words) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert (
        f"left out: task {store.tasks[1].task_id} by ane: content, language is answered" in output
    )
    assert "overall is not" in output
    assert "Imported 1 judgements, left out 1" in output


def test_the_short_format_of_label_studio_is_read(store: AnnotationStore, tmp_path: Path) -> None:
    """JSON_MIN has fields and answers side by side, and one account for all that was imported."""
    judge_remaining(store, "ane", "general", "tie", "adapted", most=3)
    judge_remaining(store, "jon", "tie", "skip", "tie", most=3)
    short = []
    for task in json.loads(label_studio.to_label_studio(store)):
        for annotation in task["annotations"]:
            values = {part["from_name"]: part["value"] for part in annotation["result"]}
            answers = {name: (v.get("choices") or v["text"])[0] for name, v in values.items()}
            short.append(task["data"] | answers | {"annotator": 1, "annotation_id": 7})
        if not task["annotations"]:
            short.append(task["data"] | {"annotator": None, "annotation_id": None})
    found, left_out = label_studio.from_label_studio(json.dumps(short))
    other = compared(tmp_path / "other.db", store.tasks, overlap=4)
    assert exchange.import_judgements(other, found) == 6
    assert not left_out
    assert other.judgements() == store.judgements()
    del short[0]["judged_by"]
    (first, *_), _ = label_studio.from_label_studio(json.dumps(short))
    assert first.annotator == "1", "judged in Label Studio"


def test_label_studio_gets_images_labels_and_no_accounts(
    store: AnnotationStore, tmp_path: Path
) -> None:
    """Label Studio refuses a file with unknown accounts, and shows what the configuration names."""
    judge_remaining(store, "ane", "general", "tie", "adapted", most=1)
    tasks = json.loads(label_studio.to_label_studio(store, lambda _key: image(1)))
    assert all("completed_by" not in a for task in tasks for a in task["annotations"])
    shown = {task["data"]["image"].partition(",")[0] for task in tasks}
    assert shown == {"data:image/webp;base64"}
    view = ET.fromstring(label_studio.label_config(store.kind, has_images=True))
    fields = {part.get("value", "")[1:] for part in view if part.tag in ("Text", "Image")}
    assert fields == {"image", "question", "left", "right"} <= tasks[0]["data"].keys()
    asked = {part.get("name"): [c.get("value") for c in part] for part in view.iter("Choices")}
    aspects = ("content", "language", "overall")
    assert asked == {aspect: ["left", "right", "tie", "skip"] for aspect in aspects}
    assert not asked.keys() & tasks[0]["data"].keys(), "an answer would replace a field"
    results = [part for task in tasks for a in task["annotations"] for part in a["result"]]
    (hidden,) = view.iter("TextArea")
    assert {part["from_name"] for part in results} == asked.keys() | {hidden.get("name")}
    assert (
        run.main(["--db", str(store.path), "--export", "labelstudio", str(tmp_path / "o.json")])
        == 0
    )
    assert "Image" not in (tmp_path / "o.labels.xml").read_text()


def argilla_records(store: AnnotationStore, images: ImageLookup | None = None) -> list[Any]:
    return [json.loads(line) for line in argilla.to_argilla(store, images).split("\n")[:-1]]


def test_argilla_gets_images_settings_and_users_with_uuids(
    store: AnnotationStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Argilla rejects other user ids, and shows the fields that its settings name."""
    judge_remaining(store, "ane", "general", "tie", "adapted", most=2)
    judge_remaining(store, "jon", "tie", "tie", "skip", most=1)
    records = [
        json.loads(line)
        for line in argilla.to_argilla(store, lambda _key: image(1)).split("\n")[:-1]
    ]
    settings = json.loads(argilla.dataset_settings(store.kind, has_images=True))
    shown = {field["name"]: field["settings"]["type"] for field in settings["fields"]}
    assert shown == {"image": "image", "question": "text", "left": "text", "right": "text"}
    hidden = {name["name"] for name in settings["metadata"] if not name["visible_for_annotators"]}
    asked = {
        question["name"]: [option["value"] for option in question["settings"]["options"]]
        for question in settings["questions"]
    }
    aspects = ("content", "language", "overall")
    assert asked == {aspect: ["left", "right", "tie", "skip"] for aspect in aspects}
    for record in records:
        assert record["fields"].keys() == shown.keys()
        assert record["fields"]["image"].startswith("data:image/webp;base64,")
        assert record["metadata"].keys() <= hidden
    users = {one["user_id"] for r in records for found in r["responses"].values() for one in found}
    assert users == {argilla.user_id("ane"), argilla.user_id("jon")}
    assert all(str(uuid.UUID(user)) == user for user in users)
    assert argilla.user_id(argilla.user_id("ane")) == argilla.user_id("ane"), "UUIDs stay"
    assert (
        run.main(["--db", str(store.path), "--export", "argilla", str(tmp_path / "o.jsonl")]) == 0
    )
    assert '"image"' not in (tmp_path / "o.settings.json").read_text()
    output = " ".join(capsys.readouterr().out.split())
    assert "12 of 12 tasks are exported without their image" in output


def test_responses_of_argilla_that_are_no_judgements_are_skips_or_left_out(
    store: AnnotationStore,
) -> None:
    """Discarded responses are skipped tasks; drafts and parts are named."""
    records = argilla_records(store)
    user = str(uuid.uuid4())

    def respond(record: dict[str, Any], status: str, *aspects: str) -> None:
        entry = {"value": "tie", "user_id": user, "status": status}
        record["responses"] = {aspect: [entry] for aspect in aspects}

    respond(records[0], "submitted", "content", "language", "overall")
    respond(records[1], "discarded", "content")
    respond(records[2], "draft", "content", "language", "overall")
    respond(records[3], "draft", "content")
    found, left_out = argilla.from_argilla(json.dumps(records))
    assert [(one.task_id, set(one.answers.values())) for one in found] == [
        (records[0]["id"], {"tie"}), (records[1]["id"], {"skip"}),
    ]  # fmt: skip
    assert {one.annotator for one in found} == {user}
    assert left_out == [
        f"task {records[2]['id']} by {user}: is a draft",
        f"task {records[3]['id']} by {user}: content is answered, language, overall is not",
    ]
    assert exchange.import_judgements(store, found) == 2


def test_responses_of_argilla_without_status_are_refused(store: AnnotationStore) -> None:
    """`to_json` of Argilla drops the status: a complete draft would count as a judgement."""
    records = argilla_records(store)
    entry = {"value": "tie", "user_id": str(uuid.uuid4())}
    records[0]["responses"] = {name: [entry] for name in ("content", "language", "overall")}
    records[1]["responses"] = {"content": [entry | {"status": None}]}
    with pytest.raises(DataError, match=r"2 responses have no status.*human-evaluation\.md"):
        argilla.from_argilla(json.dumps(records))


@pytest.mark.parametrize("kind", ["labelstudio", "argilla"])
@pytest.mark.parametrize(
    ("verdict", "text", "reason"),
    [
        ("accept", " ", ""),
        ("accept", "txakurra", "there is a text, but the verdict is accept"),
        ("fix", "", "the verdict is fix, but there is no text"),
    ],
)
def test_a_text_that_does_not_match_its_verdict_is_left_out_and_named(
    tmp_path: Path, kind: str, verdict: str, text: str, reason: str
) -> None:
    """One such review used to refuse the whole file without naming the task."""
    store = AnnotationStore.create(tmp_path / "v.db", [validate(i) for i in range(3)], overlap=2)
    for number in (0, 1):
        store.judge(
            Judgement(
                task_id=str(number), annotator="ane", answers={"verdict": "fix", "text": "TEXT"}
            )
        )
    if kind == "labelstudio":
        exported = json.loads(label_studio.to_label_studio(store))
        first = next(one for one in exported if one["data"]["task_id"] == "0")
        for part in first["annotations"][0]["result"]:
            if part["from_name"] == "verdict":
                part["value"] = {"choices": [verdict]}
            elif part["from_name"] == "text":
                part["value"] = {"text": [text]}
        found, left_out = label_studio.from_label_studio(json.dumps(exported))
    else:
        records = argilla_records(store)
        first = next(one for one in records if one["id"] == "0")
        first["responses"]["verdict"][0]["value"] = verdict
        first["responses"]["text"][0]["value"] = text
        found, left_out = argilla.from_argilla(json.dumps(records))
    assert left_out == ([f"task 0 by ane: {reason}"] if reason else [])
    other = AnnotationStore.create(tmp_path / "w.db", store.tasks, overlap=2)
    assert exchange.import_judgements(other, found) == (1 if reason else 2)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["data", "annotations", "result", "from_name", "value", "choices", "text", "task_id",
             "completed_by", "email", "was_cancelled", "id", "responses", "user_id", "fields",
             "metadata", "judged_by", "status", "verdict", "overall"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=20,
)  # fmt: skip


def read_label_studio(text: str) -> list[Judgement]:
    return label_studio.from_label_studio(text)[0]


def read_argilla(text: str) -> list[Judgement]:
    return argilla.from_argilla(text)[0]


@given(JSON_VALUES)
def test_foreign_judgements_are_read_or_rejected(content: object) -> None:
    for parse, text in (
        (read_label_studio, json.dumps(content)),
        (read_label_studio, json.dumps([content])),
        (read_argilla, json.dumps(content)),
        (read_argilla, json.dumps([content])),
        (read_argilla, str(content)),
    ):
        try:
            found = parse(text)
        except DataError:
            continue
        assert all(isinstance(value, str) for j in found for value in j.answers.values())


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": None}, "line 1, source: there is no value"),
        ({"translation": float("nan")}, "line 1, translation: there is no value"),
        ({"translation": " \u200b"}, "line 1, translation: the text is empty"),
        ({"id": None}, "line 1, id: there is no value"),
        ({"id": ["a"]}, "line 1, id: .* is not text"),
        ({"translation": "katu \ud83d"}, "line 1, translation: .* surrogate"),
    ],
)
def test_translated_items_without_a_text_are_rejected(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "items.jsonl"
    good = {"id": 1, "language": "eu", "source": "<image>\ndog", "translation": "<image>\ntxakur"}
    path.write_text("\ufeff" + json.dumps(good | {"source": "a\u2028b"}, ensure_ascii=False))
    (task,) = validate_tasks(path, most=0)
    assert task.content == {"source": "a\nb", "translation": "<image>\ntxakur"}
    path.write_text(json.dumps(good | changes))
    with pytest.raises(DataError, match=message):
        validate_tasks(path, most=0)
    path.write_bytes(json.dumps(good | {"source": "ñ"}, ensure_ascii=False).encode("cp1252"))
    with pytest.raises(DataError, match=r"can't be read .* save it as UTF-8"):
        validate_tasks(path, most=0)


def test_replies_with_any_line_separator_survive_export_and_import(tmp_path: Path) -> None:
    tasks = [
        dataclasses.replace(task, content={n: f"a\u2028b\x85{n}" for n in task.content})
        for task in map(compare, range(3))
    ]
    store = compared(tmp_path / "a.db", tasks, overlap=1)
    judge_remaining(store, "ane", "general", "tie", "adapted")
    again = compared(tmp_path / "b.db", tasks, overlap=1)
    found = read_argilla(argilla.to_argilla(store))
    assert exchange.import_judgements(again, found) == len(store.judgements()) > 0

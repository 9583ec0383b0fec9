"""Published translations are joined with the right rows, and every question passes the gate."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.prepare.reading.rows import split
from data_prep.prepare.recipe import Kind, PrepareConfig, Published, SourceRecipe
from data_prep.prepare.steps.collect import collect, join
from data_prep.prepare.steps.finish import finish
from data_prep.prepare.steps.produce import produce
from data_prep.prepare.steps.settle import settle
from data_prep.prepare.work import SourcePlan, WorkPlan
from evaluation.benchmarks.items import BenchmarkItem, load_benchmark

_NUM_ROWS = 8


def drawing(number: int, kind: str = "PNG") -> dict[str, bytes]:
    """Return a white image with a small mark whose place depends on a number."""
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    pixels[8 * number : 8 * number + 6, 8:14] = 0
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return {"bytes": buffer.getvalue()}


def yes_no_rows(yes: str, no: str, kind: str = "PNG") -> list[dict[str, Any]]:
    return [
        {"image": drawing(n, kind), "question": f"{yes} {n}?", "answer": (no, yes)[n % 2]}
        for n in range(_NUM_ROWS)
    ]


def choice_rows(words: str) -> list[dict[str, Any]]:
    return [
        {
            "question_id": f"q{n}",
            "image": drawing(n),
            "question": f"{words} {n}?",
            "choices": [f"{word} {n}" for word in words.split()],
            "correct_choice_idx": n % 3,
        }
        for n in range(_NUM_ROWS)
    ]


def prepare(
    folder: Path,
    recipe: str,
    english: list[dict[str, Any]],
    basque: list[dict[str, Any]],
    *,
    by_place: bool = False,
) -> tuple[list[BenchmarkItem], Counter[str]]:
    """Prepare a benchmark with a published translation; return it and the dropped rows."""
    for name, rows in (("en", english), ("eu", basque)):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    published = Published(place=str(folder / "eu.parquet"), by_place=by_place)
    source_recipe = SourceRecipe(
        kind=Kind.BENCHMARK,
        place=str(folder / "en.parquet"),
        licence="CC0-1.0",
        benchmark=recipe,
        published={"eu": published},
    )
    source = SourcePlan(
        name="bench",
        title="bench",
        recipe=source_recipe,
        language="en",
        target="eu",
        parts=split(source_recipe.place, per_part=5),
    )
    plan = WorkPlan(
        out=folder / "out",
        recipe="test",
        language="eu",
        limit=0,
        config=PrepareConfig(sources=[]),
        recipes={"bench": source_recipe},
        sources=(source,),
    )
    join(plan, source)
    for number in range(len(source.parts)):
        collect(plan, source, number, lambda _: None)
    settle(plan)
    for number in range(len(source.parts)):
        produce(plan, source, number, lambda _: None)
    steps = finish(plan)["sources"]["bench"]
    dropped = Counter[str]()
    for step in steps.values():
        dropped.update(step["dropped"])
    return load_benchmark(folder / "out" / "bench.manifest.json"), dropped


def test_rows_are_joined_by_place_if_their_images_are_the_same(tmp_path: Path) -> None:
    english, basque = yes_no_rows("yes", "no"), yes_no_rows("bai", "ez", "WEBP")
    items, dropped = prepare(tmp_path, "pixmo_cap_qa", english, basque, by_place=True)
    assert len(items) == 2 * _NUM_ROWS
    assert not dropped


def test_a_lost_row_of_the_translation_joins_no_questions_of_other_images(tmp_path: Path) -> None:
    """Drawings on one background differ only locally."""
    english, basque = yes_no_rows("yes", "no"), yes_no_rows("bai", "ez")
    items, dropped = prepare(
        tmp_path, "pixmo_cap_qa", english, basque[:3] + basque[4:], by_place=True
    )
    assert {item.question for item in items if item.language == "eu"} == {
        "bai 0?", "bai 1?", "bai 2?"
    }  # fmt: skip
    assert dropped == {
        "the published translation shows another image": 4,
        "not in the published translation": 1,
    }


def test_answers_that_contradict_each_other_are_dropped(tmp_path: Path) -> None:
    basque = yes_no_rows("bai", "ez")
    basque[2]["answer"], basque[3]["answer"] = "bai", "agian"
    items, dropped = prepare(
        tmp_path, "pixmo_cap_qa", yes_no_rows("yes", "no"), basque, by_place=True
    )
    assert len(items) == 2 * (_NUM_ROWS - 2)
    assert dropped == {"answers differ": 1, "neither yes nor no": 1}


@pytest.mark.parametrize("side", ["english", "basque"])
def test_rows_that_share_a_key_are_dropped(tmp_path: Path, side: str) -> None:
    """The question id of some datasets is that of the image."""
    rows = {"english": choice_rows("cat dog cow"), "basque": choice_rows("katu txakur behi")}
    rows[side][3]["question_id"] = "q2"
    items, dropped = prepare(tmp_path, "a_okvqa", **rows)
    english = {item.question for item in items if item.language == "en"}
    assert english.isdisjoint({"cat dog cow 2?", "cat dog cow 3?"})
    assert len(items) == 2 * (_NUM_ROWS - 2)
    assert dropped["key occurs twice"] >= 2


def test_choices_that_a_translation_makes_equal_or_moves_are_dropped(tmp_path: Path) -> None:
    basque = choice_rows("katu txakur behi")
    basque[1]["choices"][2] = "Katu 1."
    basque[2]["choices"].append("zaldi")
    basque[3]["correct_choice_idx"] = 2
    items, dropped = prepare(tmp_path, "a_okvqa", choice_rows("cat dog cow"), basque)
    assert len(items) == 2 * (_NUM_ROWS - 3)
    # The first is rejected when the translation is read, so it is missing later.
    assert dropped == {
        "equal choices": 1, "not in the published translation": 1, "choices differ": 2
    }  # fmt: skip

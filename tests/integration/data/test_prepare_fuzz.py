"""Thousands of corrupted rows: each is either in a shard or dropped with a reason.

`IRUDIMEN_FUZZ_ROWS=100000` tests more rows than the default of 8,000.
"""

import copy
import io
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

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
from datamodules.shards.manifest import load_manifest, open_shard
from datamodules.shards.records import parse_record
from evaluation.benchmarks.items import load_benchmark
from tests.support import prepare_world as world

pytestmark = pytest.mark.slow
_NUM_ROWS = int(os.environ.get("IRUDIMEN_FUZZ_ROWS", "8000"))
_CHATS, _CAPTIONS, _QUESTIONS = 6 * _NUM_ROWS // 10, 3 * _NUM_ROWS // 10, _NUM_ROWS // 10
_JUNK: list[Any] = [
    None, "", " ", 0, -1, 1e308, True, [], {}, [None], {"a": []}, "<image>", "<image>\n<image>",
    "\ud800", "\u0000", "\u202e", "x" * 120_000, "a\tb\nc", "\U0001f600" * 9, ["x"] * 50, 10**30,
    "[unclosed", "{}", "=cmd()", "../../etc/passwd", b"bytes".decode(), "nan", "\ufeffx",
]  # fmt: skip


def _mutate(value: Any, chance: random.Random) -> Any:
    """Return the value with one part of it changed, removed, duplicated or replaced by junk."""
    value = copy.deepcopy(value)
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        action = chance.random()
        if action < 0.15:
            del value[key]
        elif action < 0.25:
            value[str(chance.choice(_JUNK))] = value.pop(key)
        else:
            value[key] = _mutate(value[key], chance)
        return value
    if isinstance(value, list) and value and chance.random() < 0.8:
        at, action = chance.randrange(len(value)), chance.random()
        if action < 0.2:
            del value[at]
        elif action < 0.4:
            value.insert(at, value[at])
        else:
            value[at] = _mutate(value[at], chance)
        return value
    if isinstance(value, str) and value and chance.random() < 0.5:
        start = chance.randrange(len(value))
        return value[:start] + str(chance.choice(_JUNK))[:50] + value[start + 3 :]
    return chance.choice(_JUNK)


def _chats(path: Path, chance: random.Random) -> str:
    """Write JSON lines, some of which are truncated, corrupted or of other types."""
    pairs = world.pairs()
    with path.open("wb") as file:
        for number in range(_CHATS):
            texts = [pairs[chance.randrange(200)][1] for _ in range(2 * chance.randint(1, 3))]
            turns = [{"from": ("human", "gpt")[at % 2], "value": f"{text} {number}"}
                     for at, text in enumerate(texts)]  # fmt: skip
            row: Any = {"id": number, "conversations": turns}
            for _ in range(chance.choice((0, 1, 1, 2, 5))):
                row = _mutate(row, chance)
            line = bytearray(json.dumps(row).encode("utf-8"))
            if chance.random() < 0.1 and line:
                line[chance.randrange(len(line))] = chance.choice(b'\xff\x00"{}[],:x')
            file.write(bytes(line).replace(b"\n", b" ") + b"\n")
    return str(path)


def _image(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def _corrupt(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return chance.choice(
        [content[:at], content[:at] + b"\xff" + content[at + 1 :], b"", content * 2]
    )


def _column_text(value: Any) -> str | None:
    """Convert a value to what a text column can hold."""
    plain = value if isinstance(value, str) or value is None else str(value)
    return plain if plain is None else plain.encode("utf-8", "replace").decode("utf-8")


def _captions(path: Path, chance: random.Random) -> str:
    """Write parquet with images and a published translation, both often corrupted."""
    rows = []
    for number in range(_CAPTIONS):
        en, eu = world.pairs()[chance.randrange(200)]
        image = _image(number % (_NUM_ROWS // 5))
        row = {"id": number, "image": {"bytes": image}, "en": f"{en} {number}",
               "eu": f"{eu} {number}"}  # fmt: skip
        for name in ("en", "eu"):
            if chance.random() < 0.2:
                row[name] = _column_text(_mutate(row[name], chance))
        if chance.random() < 0.1:
            row["image"] = {"bytes": _corrupt(_image(number), chance)}
        rows.append(row)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def _questions(path: Path, chance: random.Random) -> str:
    rows = []
    for number in range(_QUESTIONS):
        choices: Any = [f"{world.pairs()[chance.randrange(200)][0]} {at}" for at in range(4)]
        row = {"question_id": _column_text(number), "question": f"What is {number}?",
               "choices": str(choices), "correct_choice_idx": str(number % 4)}  # fmt: skip
        for name in row:
            if chance.random() < 0.05:
                row[name] = _column_text(_mutate(row[name], chance))
        rows.append({**row, "image": {"bytes": _image(_CAPTIONS + number)}})
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def _plan(folder: Path) -> WorkPlan:
    chance = random.Random(11)
    config = PrepareConfig(
        sources=[], per_part=9 * _NUM_ROWS // 100, per_shard=4 * _NUM_ROWS // 100
    )
    recipes = {
        "chats": SourceRecipe(
            kind=Kind.CHAT, place=_chats(folder / "chats.jsonl", chance), licence="CC0-1.0",
            columns={"conversation": "conversations"}),
        "captions": SourceRecipe(
            kind=Kind.CAPTION, place=_captions(folder / "captions.parquet", chance),
            licence="CC0-1.0", columns={"image": "image", "caption": "en"},
            published={"eu": Published(columns={"caption": "eu"})}),
        "questions": SourceRecipe(
            kind=Kind.BENCHMARK, place=_questions(folder / "questions.parquet", chance),
            licence="CC0-1.0", benchmark="a_okvqa"),
    }  # fmt: skip
    sources = tuple(
        SourcePlan(
            name=name, title=name, recipe=recipe, language="en",
            target="eu" if recipe.published else "",
            parts=split(recipe.place, per_part=config.per_part),
        )
        for name, recipe in recipes.items()
    )  # fmt: skip
    return WorkPlan(
        out=folder / "out", recipe="fuzz", language="eu", limit=0, config=config, recipes=recipes,
        sources=sources,
    )  # fmt: skip


def test_all_corrupted_rows_are_written_or_counted(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    for source in plan.sources:
        if source.is_joined:
            join(plan, source)
    for source, part in plan.tasks():
        collect(plan, source, part, lambda _: None)
    settle(plan)
    for source, part in plan.tasks():
        produce(plan, source, part, lambda _: None)
    report = finish(plan)["sources"]
    assert sum(steps["collect"]["num_in"] for steps in report.values()) == _NUM_ROWS
    for name, steps in report.items():
        for step, ledger in steps.items():
            dropped = Counter(ledger["dropped"])
            assert ledger["num_in"] == ledger["num_out"] + dropped.total(), (name, step)
            assert all(ledger["examples"][reason] for reason in dropped)
        kept = steps["produce"]["num_out"]
        assert 0.2 * steps["collect"]["num_in"] < kept < steps["collect"]["num_in"]
        assert len(steps["collect"]["dropped"]) >= 3, name
    _check_samples(plan, report)


def _check_samples(plan: WorkPlan, report: dict[str, Any]) -> None:
    """Check that training and evaluation can read every written sample."""
    for name, languages in (("chats", ["en"]), ("captions", ["en", "eu"])):
        for language in languages:
            path = plan.out / f"{name}_{language}.manifest.json"
            manifest = load_manifest(path)
            assert manifest.num_samples == report[name]["produce"]["num_out"]
            for entry in manifest.shards:
                reader = open_shard(path, entry)
                for at in range(entry.num_samples):
                    content, image = reader.read(at)
                    turns = parse_record(
                        content, manifest.record, reader.key(at), has_image=image is not None
                    )[1]
                    assert all(turn.content.strip() for turn in turns)
    items = load_benchmark(plan.out / "questions.manifest.json", ["en"])
    assert len(items) == report["questions"]["produce"]["num_out"]

"""Conversation files of other programs: every format gives the same source, and nothing is lost."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

from core.errors import DataError
from core.samples import Role
from data_prep import from_llava, index
from data_prep.foreign.columns import find_columns
from data_prep.foreign.samples import convert_row
from data_prep.prepare.faults import DroppedError
from datamodules.shards.source import Source
from tests.support.small_world import image

ANSWERS = ("txakur bat", "etxe, handia", "ilargia")
QUESTION = "Zer da hau?"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i in range(len(ANSWERS)):
        (folder / "sub" / f"{i}.webp").write_bytes(image(i))
    return folder


def llava(i: int, **more: Any) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<image>\n{QUESTION}"},
        {"from": "gpt", "value": ANSWERS[i]},
    ]
    return {"id": str(i), "image": f"sub/{i}.webp", "conversations": turns, **more}


def chat(i: int) -> dict[str, Any]:
    parts = [{"type": "image", "text": None}, {"type": "text", "text": QUESTION}]
    answer = [{"type": "text", "text": ANSWERS[i]}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": [{"bytes": image(i), "path": None}]}


def write(path: Path) -> Path:
    rows = [llava(i) for i in range(len(ANSWERS))]
    if path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        lines = [f'sub/{i}.webp,{QUESTION},"{answer}"' for i, answer in enumerate(ANSWERS)]
        path.write_text("\n".join(["image,question,answer", *lines]), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist([chat(i) for i in range(len(ANSWERS))]), path)
    return path


def run(*arguments: str | Path) -> int:
    return from_llava.main([*map(str, arguments), "--language", "eu"])


def texts(source: Source) -> list[list[str]]:
    return [[turn.content for turn in source.read(i).turns] for i in range(len(source))]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_source(tmp_path: Path, photos: Path, suffix: str) -> None:
    file = write(tmp_path / f"my.{suffix}")
    assert run(file, "--images", photos, "--out", tmp_path / "out", "--per-shard", "2") == 0
    source = Source(tmp_path / "out" / "my_eu.manifest.json")
    assert texts(source) == [[f"<image>\n{QUESTION}", answer] for answer in ANSWERS]
    assert [source.read(i).image for i in range(3)] == [image(i) for i in range(3)]
    assert source.manifest.language == "eu"
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    assert len(shards) == 2
    read = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["json"]["messages"][1]["content"] for sample in read] == list(ANSWERS)


def test_conversations_without_an_image_are_a_source_of_their_own(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"from": "human", "value": "Kaixo"}, {"from": "gpt", "value": "Baita zuri ere"}]
    rows = [llava(0), {"id": "t", "conversations": turns}]
    (tmp_path / "my.json").write_text(json.dumps(rows), encoding="utf-8")
    run(tmp_path / "my.json", "--images", photos, "--out", tmp_path / "out")
    text = Source(tmp_path / "out" / "my_text_eu.manifest.json")
    assert texts(text) == [["Kaixo", "Baita zuri ere"]]
    assert not text.has_images
    assert "1 of 2 rows, image-text" in capsys.readouterr().err


def test_unusable_rows_are_counted_and_budgeted(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG broken")
    rows = [
        llava(0),
        llava(1, image="sub/absent.webp"),
        llava(1, image="../secret.png"),
        llava(1, image=["sub/0.webp", "sub/1.webp"]),
        llava(1, image="https://example.org/a.jpg"),
        llava(1, image="broken.png"),
        llava(1, image=""),
        llava(1, conversations=[{"from": "gpt", "value": "x"}]),
    ]
    (tmp_path / "my.json").write_text(json.dumps(rows), encoding="utf-8")
    arguments = (tmp_path / "my.json", "--images", photos, "--out", tmp_path / "out")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "7 of 8 rows are unusable" in error
    assert "raise --max-unusable" in error
    assert not list((tmp_path / "out").glob("*.manifest.json"))
    assert run(*arguments, "--max-unusable", "1") == 0
    source = Source(tmp_path / "out" / "my_eu.manifest.json")
    assert len(source) == 1
    assert source.manifest.statistics["unusable"] == {
        "image is a URL; data_prep.prepare downloads": 1,
        "image: image cannot be decoded": 1,
        "no image": 1,
        "no image file": 2,
        "several images": 1,
        "turns do not alternate": 1,
    }


def test_columns_can_be_named() -> None:
    row = {"galdera": "Zer?", "erantzuna": "Txakur bat.", "file": {"bytes": image(0)}}
    given = {"question": "galdera", "answer": "erantzuna", "image": "file"}
    sample = convert_row(row, find_columns(row, "a.csv", given), None)
    assert [m["content"] for m in sample.messages] == ["<image>\nZer?", "Txakur bat."]
    assert [m["role"] for m in sample.messages] == [Role.USER.value, Role.ASSISTANT.value]
    with pytest.raises(DataError, match=r"no column .x. .--columns question=x.; its col"):
        find_columns(row, "a.csv", {"question": "x"})
    with pytest.raises(DataError, match=r"a\.csv has no column of conversations.*galdera"):
        find_columns(row, "a.csv", {})


def test_a_path_needs_a_folder() -> None:
    columns = find_columns(llava(0), "my.json", {})
    with pytest.raises(DroppedError, match="image is a path, but --images is missing"):
        convert_row(llava(0), columns, None)


@pytest.mark.parametrize("name", ["my.json", "my.parquet", "my.csv"])
def test_the_command_for_shards_names_the_right_one(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("[]")
    command = index.__name__ + ".__main__"
    main = __import__(command, fromlist=["main"]).main
    assert main([str(tmp_path / name), "--name", "a", "--language", "eu"]) == 2
    assert f"python -m data_prep.from_llava {tmp_path / name}" in capsys.readouterr().err

"""Conversation files of other programs: every format gives the same source, and nothing is lost."""

import json
import unicodedata
from base64 import b64encode
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset

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
    sample = convert_row(row, find_columns(row, given), None)
    assert [m["content"] for m in sample.messages] == ["<image>\nZer?", "Txakur bat."]
    assert [m["role"] for m in sample.messages] == [Role.USER.value, Role.ASSISTANT.value]
    with pytest.raises(DroppedError, match=r"no column of conversations.*galdera, erantzuna"):
        find_columns(row, {})


def test_a_column_that_is_named_and_no_row_has_is_an_error(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "my.csv")
    assert run(file, "--images", photos, "--columns", "question=x", "--out", tmp_path / "out") == 2
    assert "no row has a value in the column 'x' (--columns question=x)" in capsys.readouterr().err


def test_a_path_needs_a_folder() -> None:
    columns = find_columns(llava(0), {})
    with pytest.raises(DroppedError, match="image is a path, but --images is missing"):
        convert_row(llava(0), columns, None)


def test_rows_of_one_file_may_have_different_columns(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first row of a mixture often has no image; later images are not left out then."""
    turns = [{"from": "human", "value": "Kaixo"}, {"from": "gpt", "value": "Baita zuri ere"}]
    unmarked = llava(2)["conversations"]
    unmarked[0]["value"] = QUESTION
    rows = [
        {"id": "t", "conversations": turns},
        llava(0),
        {"image": None, "images": ["sub/1.webp"], "messages": llava(1)["conversations"]},
        llava(2, conversations=unmarked),
    ]
    (tmp_path / "my.json").write_text(json.dumps(rows), encoding="utf-8")
    assert run(tmp_path / "my.json", "--images", photos, "--out", tmp_path / "out") == 0
    source = Source(tmp_path / "out" / "my_eu.manifest.json")
    assert texts(source) == [[f"<image>\n{QUESTION}", answer] for answer in ANSWERS]
    assert [source.read(i).image for i in range(3)] == [image(i) for i in range(3)]
    assert "columns that are not used, with the number of rows: id (3)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "sub/0.webp"},
        {"type": "image", "image": "file://sub/0.webp"},
        {"type": "image", "path": "sub\\0.webp"},
        {"type": "image_url", "image_url": {"url": "sub/0.webp"}},
        {
            "type": "image_url",
            "image_url": f"data:image/webp;base64,{b64encode(image(0)).decode()}",
        },
        {"type": "image", "image": {"bytes": image(0), "path": None}},
    ],
)
def test_images_in_the_parts_of_messages(photos: Path, part: dict[str, Any]) -> None:
    question = {"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}
    row = {"messages": [question, {"role": "assistant", "content": ANSWERS[0]}]}
    sample = convert_row(row, find_columns(row, {}), photos)
    assert [m["content"] for m in sample.messages] == [f"<image>\n{QUESTION}", ANSWERS[0]]
    assert sample.image == image(0)
    second = {"messages": [{**question, "content": [part, *question["content"]]}]}
    with pytest.raises(DroppedError, match="several images"):
        convert_row(second, find_columns(second, {}), photos)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_paths_of_other_systems_are_found_and_counted(
    tmp_path: Path, photos: Path, form: Literal["NFC", "NFD"], capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / unicodedata.normalize(form, "ñandú.webp")).write_bytes(image(0))
    rows = [llava(0, image=unicodedata.normalize(other, "ñandú.webp")) for other in ("NFC", "NFD")]
    rows.append(llava(1, image="sub\\1.webp"))
    (tmp_path / "my.json").write_text(json.dumps(rows), encoding="utf-8")
    assert run(tmp_path / "my.json", "--images", photos, "--out", tmp_path / "out") == 0
    assert "2 paths of images are spelled differently" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (3, "text is no string"),
        (["<image>", "Zer?"], "unknown part of a message"),
        ("<image 1>\nZer?", "placeholder of a numbered image"),
        ("", "empty text"),
    ],
)
def test_a_text_that_is_none_is_named(photos: Path, value: Any, reason: str) -> None:
    row = llava(0, conversations=[{"from": "Human", "value": value}, {"from": "GPT", "value": "a"}])
    with pytest.raises(DroppedError, match=reason):
        convert_row(row, find_columns(row, {}), photos)


def test_a_long_file_without_a_usable_row_ends_early(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = json.dumps({"id": 1, "items": []})
    (tmp_path / "my.jsonl").write_text(f"{row}\n" * 2500, encoding="utf-8")
    assert run(tmp_path / "my.jsonl", "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "1000 of 1000 rows are unusable" in error
    assert "the columns are id, items" in error


@pytest.mark.parametrize("name", ["my.json", "my.parquet", "my.csv"])
def test_the_command_for_shards_names_the_right_one(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("[]")
    command = index.__name__ + ".__main__"
    main = __import__(command, fromlist=["main"]).main
    assert main([str(tmp_path / name), "--name", "a", "--language", "eu"]) == 2
    assert f"python -m data_prep.from_llava {tmp_path / name}" in capsys.readouterr().err

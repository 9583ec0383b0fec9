"""Every command reports a damaged input file in one message with its name, and returns 2."""

import contextlib
import dataclasses
import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import card, fixes, import_benchmark
from data_prep.index.__main__ import main as index
from data_prep.prepare.__main__ import main as prepare
from evaluation import contamination, judge
from evaluation import run as evaluate
from evaluation.people import run as people
from experiments import chat, export, inspect_stream, report, run, skypilot, sync, ui
from tests.support import fake_grid
from tests.support import small_world as worlds
from tests.support.caches import clear_caches
from tests.support.evaluation_doubles import small_benchmark
from tests.support.models.foreign_checkpoints import write_llava

pytestmark = pytest.mark.slow
HALF = b"(the first half of the file)"
GARBAGE = b"\x8f\x00garbage\xff" * 400
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
DAMAGE: dict[str, Sequence[bytes]] = {
    "json": (b"", b"[]", b"\xff\xfe{", b'{"format": 1}', HALF),
    "settings": (b"", b"{", b"[]", b"\xff\xfe{"),
    "yaml": (b"a: [", b"\xff\xfe", b"- 1", b"a: {b", b"\tx: 1", b"unknown_key: 1"),
    "weights": (b"", POINTER, GARBAGE, HALF),
    "template": (b"{% for", b"{{ 1 / 0 }}", b"\xff\xff", b"{{ raise_exception('no') }}"),
    "parquet": (b"", HALF),
    "export": (b"", b"7", b"\xff\xfe{", b'{"format": 1}'),
    "lines": (b"{\n", b"[1]\n", b"\xff\xfe\n", b"{}\n"),
    "table": (b"", b"\xff\xfe\x00", b"a;b\n1;2\n"),
    "database": (GARBAGE, HALF, b"SQLite format 3\x00" + GARBAGE),
    "tar": (b"", GARBAGE, HALF),
    "image": (b"", GARBAGE, HALF),
}
"""Kind of file -> contents that no command can use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A command and the files that it reads."""

    main: Callable[[Sequence[str] | None], int]
    arguments: Sequence[str]
    files: dict[str, str]
    """Path in the world -> kind of file."""
    other_name: str = ""
    """What may name a file instead: the row that refers to it."""


TINY = ("--exp", "mix_ablation", "--profile", worlds.PROFILE, "--only", worlds.CELL)
CELL = ("--exp", "mix_ablation", "--profile", worlds.PROFILE, "--run", worlds.CELL)
GRID = {f"configs/{worlds.PROFILE}.yaml": "yaml", "data/train-000001.tar": "tar"}
PLAN = GRID | {
    "data/instruct_eu.manifest.json": "json",
    "data/train-000001.index.npy": "tar",
    "data/lm/tokenizer.json": "json",
    "data/lm/tokenizer_config.json": "settings",
    "data/lm/config.json": "json",
    "data/tower/open_clip_config.json": "json",
}
ROWS = ("--recipe", "recipe.yaml", "--name", "new", "--out", "new")
EVALUATION = ("--benchmark", "data/benchmark_test.manifest.json", "--limit", "2")
CASES = {
    "run": Case(main=run.main, arguments=(*TINY, "--dry-run", "--root", "plan"), files=PLAN),
    "why": Case(main=run.main, arguments=(*TINY, "--why", "share40", "--root", "plan"), files=GRID),
    "inspect_stream": Case(
        main=inspect_stream.main,
        arguments=(*TINY, "--root", "plan"),
        files=GRID | {"data/lm/tokenizer.json": "json"},
    ),
    "skypilot": Case(
        main=skypilot.main,
        arguments=(
            "--exp", "mix_ablation", "--profile", worlds.PROFILE, "--bucket", "s3://bucket",
            "--out", "task.yaml",
        ),
        files=GRID,
    ),
    "chat": Case(
        main=chat.main,
        arguments=(*CELL, "--image", "photo.png", "--ask", "Zer da?", "--root", "cells"),
        files=GRID,
    ),
    "export": Case(
        main=export.main,
        arguments=(*CELL, "--to", "hf", "exported", "--root", "cells"),
        files=GRID,
    ),
    "report": Case(
        main=report.main,
        arguments=("--exp", "mix_ablation", "--root", "fake"),
        files={
            "fake/grids/mix_ablation-embedded/grid.json": "json",
            "fake/store/evaluate/*/result/metrics.json": "json",
            "fake/store/evaluate/*/result/predictions.parquet": "parquet",
            "fake/store/evaluate/*/result/canaries.json": "json",
            "fake/store/evaluate/*/stage.json": "settings",
        },
    ),
    "sync": Case(
        main=sync.main,
        arguments=("--root", "tracked"),
        files={
            "tracked/grids/mix_ablation-embedded/grid.json": "json",
            "tracked/mlflow.db": "database",
        },
    ),
    "ui": Case(
        main=ui.main,
        arguments=("--root", "tracked"),
        files={"tracked/mlflow.db": "database"},
    ),
    "evaluation.run": Case(
        main=evaluate.main,
        arguments=("--model", "llava", *EVALUATION, "--out", "asked", "--max-new-tokens", "1"),
        files={
            "llava/config.json": "json",
            "llava/tokenizer.json": "json",
            "llava/tokenizer_config.json": "settings",
            "llava/processor_config.json": "settings",
            "llava/chat_template.jinja": "template",
            "llava/model.safetensors": "weights",
            "llava/generation_config.json": "settings",
            "llava/evaluation.yaml": "yaml",
            "data/benchmark_test.manifest.json": "json",
            "data/benchmark-000000.tar": "tar",
        },
    ),
    "judge": Case(
        main=judge.main,
        arguments=(
            "--pairs", "a=a.parquet", "b=b.parquet",
            "--images", "data/benchmark_test.manifest.json",
            "--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--out", "judged",
            "--language", "eu",
        ),
        files={"a.parquet": "parquet", "data/benchmark_test.manifest.json": "json"},
    ),
    "people": Case(
        main=people.main,
        arguments=("--db", "new.db", "--items", "items.jsonl"),
        files={"items.jsonl": "lines"},
    ),
    "people results": Case(
        main=people.main,
        arguments=("--db", "people.db", "--results"),
        files={"people.db": "database"},
    ),
    "people import": Case(
        main=people.main,
        arguments=("--db", "people.db", "--import", "labelstudio", "judged.json"),
        files={"judged.json": "export"},
    ),
    "contamination": Case(
        main=contamination.main,
        arguments=(
            "--benchmark", "data/benchmark_test.manifest.json",
            "--training", "data/caption_en.manifest.json", "--pixels",
        ),
        files={
            "data/benchmark_test.manifest.json": "json",
            "data/caption_en.manifest.json": "json",
            "data/train-000001.tar": "tar",
        },
    ),
    "index": Case(
        main=index,
        arguments=(
            "data/train-000001.tar", "--name", "new", "--language", "eu", "--out", "indexed",
            "--record", "caption.eu", "--lengths-for", "data/lm", "--template", "embedded",
        ),
        files={
            "data/train-000001.tar": "tar",
            "indexed/new.index/scanned.json": "settings",
        },
    ),
    "index with lengths": Case(
        main=index,
        arguments=(
            "data/train-000001.tar", "--name", "more", "--language", "eu", "--out", "indexed",
            "--record", "caption.eu", "--lengths-for", "./data/lm", "--template", "embedded",
        ),
        files={"data/lm/tokenizer.json": "json"},
    ),
    "prepare": Case(
        main=prepare,
        arguments=("--language", "eu", "--recipe", "prepare.yaml", "--dry-run"),
        files={"prepare.yaml": "yaml"},
    ),
    "import_benchmark": Case(
        main=import_benchmark.main,
        arguments=(*ROWS, "--source", "eu=rows.jsonl"),
        files={"recipe.yaml": "yaml", "rows.jsonl": "lines", "one.png": "image"},
        other_name="rows.jsonl, row 0",
    ),
    "import_benchmark of a table": Case(
        main=import_benchmark.main,
        arguments=(*ROWS, "--source", "eu=rows.csv"),
        files={"rows.csv": "table"},
    ),
    "import_benchmark of Parquet": Case(
        main=import_benchmark.main,
        arguments=(*ROWS, "--source", "eu=rows.parquet"),
        files={"rows.parquet": "parquet"},
    ),
    "fixes": Case(
        main=fixes.main,
        arguments=(
            "--data", "data", "--judgements", "judged.csv", "--language", "eu", "--out", "fixed",
        ),
        files={"judged.csv": "table", "data/instruct_eu.manifest.json": "json"},
    ),
    "card": Case(
        main=card.main,
        arguments=("data",),
        files={"data/instruct_eu.manifest.json": "json", "data/report.json": "json"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an intact input for every command."""
    folder = worlds.build_world(tmp_path_factory.mktemp("pristine"))
    (folder / "photo.png").write_bytes(worlds.image(1))
    fake_grid.make_grid(folder / "fake", cells=fake_grid.mix_axes()[:1], num_images=12)
    predictions = next(folder.glob("fake/store/evaluate/*/result/predictions.parquet"))
    for name in ("a.parquet", "rows.parquet"):
        shutil.copy(predictions, folder / name)
    others = pq.read_table(predictions)
    replies = pa.array([f"{reply} bat" for reply in others["output"].to_pylist()])
    column = others.schema.get_field_index("output")
    pq.write_table(
        others.set_column(column, others.schema.field(column), replies), folder / "b.parquet"
    )
    shutil.copytree(folder / "fake" / "grids", folder / "tracked" / "grids")
    with contextlib.closing(sqlite3.connect(folder / "tracked" / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs (name TEXT)")
        database.executemany("INSERT INTO runs VALUES (?)", [("x" * 900,)] * 50)
        database.commit()
    write_llava(folder / "llava")
    (folder / "llava" / "evaluation.yaml").write_text("prompt_style: bare\n")
    (folder / "one.png").write_bytes(worlds.image(2))
    row = {"id": 1, "image": "one.png", "question": "Zer da?", "answers": ["bai"]}
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "rows.csv").write_text("id,image,question,answers\n1,one.png,Zer da?,bai\n")
    (folder / "recipe.yaml").write_text(
        "benchmark: vqa\nlicence: test\n"
        "columns: {question_id: id, image: image, question: question, answers: answers}\n"
    )
    item = {"id": "1", "language": "eu", "source": "a dog", "translation": "txakur bat"}
    (folder / "items.jsonl").write_text(json.dumps(item) + "\n")
    shutil.copy("data_prep/recipes/paper.yaml", folder / "prepare.yaml")
    (folder / "judged.csv").write_text("task,annotator,verdict,text\nx-0,ane,accept,\n")
    (folder / "data" / "report.json").write_text('{"sources": {}}')
    small_benchmark(folder / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        new = ["--db", "people.db", "--items", "items.jsonl", "--export", "csv", "empty.csv"]
        assert people.main(new) == 0
        (folder / "judged.json").write_text("[]")
        assert index(list(CASES["index"].arguments)) == 0
    return folder


@pytest.fixture
def world(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the folder as the working directory."""
    folder = shutil.copytree(pristine, tmp_path / "world")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("core.process.stop.StopFlag.install", lambda self: None)
    clear_caches()
    return folder


@pytest.mark.parametrize(
    ("name", "pattern"),
    [(name, path) for name, case in CASES.items() for path in case.files],
)
def test_a_damaged_file_is_one_message(
    world: Path, capsys: pytest.CaptureFixture[str], name: str, pattern: str
) -> None:
    case = CASES[name]
    path = next(world.glob(pattern), world / pattern)
    original = path.read_bytes() if path.is_file() else b""
    for content in DAMAGE[case.files[pattern]]:
        path.write_bytes(original[: len(original) // 2] if content is HALF else content)
        code = case.main(list(case.arguments))
        message = " ".join("".join(capsys.readouterr()).split())
        assert code == 2, (content[:20], message)
        assert "error:" in message, content[:20]
        names = {path.name, path.stem, path.parent.name, case.other_name or path.name}
        assert any(part in message for part in names), (content[:20], message)

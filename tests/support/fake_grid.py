"""A fake grid on disk with plausible scores, for tests of tracking and report."""

import functools
import hashlib
import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from core.config import to_plain
from core.rng import named_rng
from datamodules.shards.manifest import Manifest, Modality, ShardEntry, save_manifest
from datamodules.shards.reader import write_index
from evaluation.benchmarks.predictions import SCHEMA, write_predictions
from evaluation.canaries import Canaries, check_image_use
from evaluation.metrics.aggregate import aggregate
from reporting.claims.preregistration import write_copy

LANGUAGES = ("en", "eu")
_NOUNS = {
    "en": ["dog", "house", "tree", "apple"], "eu": ["txakurra", "etxea", "zuhaitza", "sagarra"],
}  # fmt: skip
_KINDS = (
    ("vqa", "yes/no", 0.45), ("vqa", "number", 0.35), ("vqa", "other", 0.1), ("vqa", "other", 0.1),
    ("mc", "choice", 0.3), ("capqa", "yes/no", 0.5),
)  # fmt: skip
_START = 1_790_000_000.0


def mix_axes(seeds: tuple[int, ...] = (0,)) -> list[dict[str, Any]]:
    """Return the axes of the cells of the mixture grid."""
    shares = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    return [_axes(share, text, seed=s) for s in seeds for text in (False, True) for share in shares]


def backbone_axes() -> list[dict[str, Any]]:
    """Return the axes of two backbones at three shares."""
    return [_axes(x, False, backbone=b) for b in ("general", "adapted") for x in (0.0, 0.2, 1.0)]


def stage_axes() -> list[dict[str, Any]]:
    """Return the axes of three ways to train at one share."""
    return [_axes(0.2, False, stages=s) for s in ("instruct_only", "align_only", "both")]


def connector_axes(shares: tuple[float, ...] = (0.2,)) -> list[dict[str, Any]]:
    """Return the axes of a grid that varies two configuration fields outside the study's axes."""
    return [
        {**_axes(share, False), "model.connector.kind": kind, "instruct.num_steps": num_steps}
        for num_steps in (300, 600, 1200)
        for kind in ("linear", "mlp2x_gelu")
        for share in shares
    ]


def make_grid(
    root: Path,
    experiment: str = "mix_ablation",
    *,
    cells: list[dict[str, Any]] | None = None,
    num_images: int = 40,
    unfinished: int = 0,
    is_registered: bool = True,
) -> Path:
    """Write grid, stages, logs, predictions and a benchmark; return the folder of the grid.

    Args:
        root: Output folder of all runs.
        experiment: Name of the experiment.
        cells: Axes of every cell.
        num_images: Images of the benchmark.
        unfinished: Number of cells at the end that have no result.
        is_registered: Whether the hypotheses were registered a minute before the first result.
    """
    axes = mix_axes() if cells is None else cells
    benchmark = root / "data" / "benchmark_test"
    make_benchmark(benchmark.parent, num_images)
    described = []
    for at, cell in enumerate(axes):
        is_open = at >= len(axes) - unfinished
        described.append(_make_cell(root / "store", cell, num_images, at, is_open=is_open))
    folder = root / "grids" / f"{experiment}-embedded"
    folder.mkdir(parents=True, exist_ok=True)
    registration = register_before(root, folder) if is_registered else None
    grid = {
        "experiment": experiment, "profile": "embedded", "title": f"{experiment} (embedded)",
        "created": _START, "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "git_dirty": False, "versions": {"torch": "2.13.0", "lightning": "2.6.6"},
        "machine": {"platform": "Linux-6.1-x86_64", "cores": 2},
        "languages": {"base": "en", "target": "eu"}, "benchmarks": [str(benchmark)],
        "registration": registration, "cells": described,
    }  # fmt: skip
    (folder / "grid.json").write_text(json.dumps(grid))
    return folder


def register_before(root: Path, folder: Path) -> dict[str, str]:
    """Register the hypotheses before all results, as if the grid had started with them."""
    stamp = write_copy(folder, now=_START - 60).to_json()
    for path in root.glob("store/*/*/stage.json"):
        about = json.loads(path.read_text())
        stamps = [*about.get("registrations", []), stamp]
        path.write_text(json.dumps({**about, "registrations": stamps}))
    return stamp


def make_benchmark(folder: Path, num_images: int) -> None:
    """Write a shard of images with its manifest and index."""
    folder.mkdir(parents=True, exist_ok=True)
    shard = folder / "benchmark_test-000000.tar"
    with tarfile.open(shard, "w") as tar:
        for at in range(num_images):
            members = (("webp", _image(at)), ("json", json.dumps({"id": _key(at)}).encode()))
            for extension, content in members:
                info = tarfile.TarInfo(f"{_key(at)}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    write_index(shard)
    entry = ShardEntry(
        path=shard.name, sha256=hashlib.sha256(shard.read_bytes()).hexdigest(),
        num_bytes=shard.stat().st_size, num_samples=num_images,
    )  # fmt: skip
    manifest = Manifest(
        name="benchmark_test", language="en,eu", modality=Modality.BENCHMARK, record="",
        licence="MIT", provenance="test", shards=(entry,),
    )  # fmt: skip
    save_manifest(folder / "benchmark_test.manifest.json", manifest)


def _axes(
    share: float, text: bool, *, backbone: str = "general", stages: str = "both", seed: int = 0
) -> dict[str, Any]:
    return {"target_share": share, "text_only": text, "backbone": backbone, "stages": stages,
            "seed": seed}  # fmt: skip


def _make_cell(
    store: Path, axes: dict[str, Any], num_images: int, at: int, *, is_open: bool
) -> dict[str, Any]:
    cell_id = "_".join(str(value) for value in axes.values())
    fields = {name: value for name, value in axes.items() if "." in name}
    shared = {"backbone": axes["backbone"], "seed": float(axes["seed"])}
    if "model.connector.kind" in fields:
        shared["connector"] = fields["model.connector.kind"]
    own = {**shared, "target_share": axes["target_share"], "text_only": str(axes["text_only"])}
    steps: list[tuple[str, list[Any], dict[str, Any], int, float]] = [
        ("features", ["all"], {}, 0, 12.0), ("align", list(shared.values()), shared, 300, 61.5),
    ]  # fmt: skip
    steps += [("instruct", [cell_id], own, 300, 84.2), ("evaluate", [cell_id], own, 0, 9.7)]
    addresses: dict[str, str] = {}
    for kind, key, params, num_steps, seconds in steps:
        address = hashlib.sha256(f"{kind}{key}".encode()).hexdigest()[:16]
        folder = store / kind / address
        is_done = not (is_open and kind in ("instruct", "evaluate"))
        _make_stage(folder, {**params, "stage": kind}, dict(addresses), cell_id)
        begin = _START + 100 * at
        status = {"state": "done", "started": begin, "ended": begin + seconds, "attempts": 1,
                  "wall_s": seconds, "error": "", "max_rss_mb": 900.0}  # fmt: skip
        if is_done:
            _make_result(folder, kind, num_steps)
        else:
            status["state"] = "failed" if kind == "instruct" else "waiting"
            status["error"] = "DataError: shard is missing"
        (folder / "status.json").write_text(json.dumps(status))
        if kind == "evaluate" and is_done:
            _make_evaluation(folder / "result", axes, num_images)
        addresses[kind] = address
    described: dict[str, Any] = {"cell_id": cell_id, "axes": axes, "stages": addresses}
    if "connector" in shared:
        trained = {"align": 25_000, "instruct": 1_620_000}
        described["training_sizes"] = {
            kind: {"parameters": 5_550_000, "trained": number, "image_tokens": 5,
                   "tokens": 388_050.0, "flops": 1.7e12}
            for kind, number in trained.items()
        }  # fmt: skip
    return described


def _make_stage(folder: Path, params: dict[str, Any], upstream: dict[str, str], cell: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stage = {
        "kind": folder.parent.name, "address": folder.name, "params": params, "upstream": upstream,
        "title": f"{folder.parent.name} {cell}", "config": {"optim": {"lr": 0.001}, **params},
        "data": {"data/emoji_eu.manifest.json": "a1b2"},
    }  # fmt: skip
    (folder / "stage.json").write_text(json.dumps(stage))


def _make_result(folder: Path, kind: str, num_steps: int) -> None:
    (folder / "result").mkdir(exist_ok=True)
    if kind in ("align", "instruct"):
        (folder / "result" / "freeze_report.txt").write_text("connector: trainable\n")
        write_log(folder, range(9, num_steps, 10))
    progress = {"step": num_steps or 40, "total": num_steps or 40, "metrics": {}}
    (folder / "progress.json").write_text(json.dumps(progress))


def write_log(folder: Path, steps: range, *, mode: str = "a") -> None:
    """Append training metrics in the format of the logger."""
    with (folder / "metrics.jsonl").open(mode) as file:
        for step in steps:
            metrics = {"train/loss": 0.5 + 6 / (step + 1), "train/tokens_per_s": 4000.0 + step}
            line = {"step": step, "time": _START + step / 4, "metrics": metrics}
            file.write(json.dumps(line) + "\n")


def _ability(axes: dict[str, Any], language: str) -> float:
    share, text = axes["target_share"], axes["text_only"]
    if language == "eu":
        value = 0.22 + 0.40 * (1 - np.exp(-share / 0.12)) + (0.05 + 0.1 * (share == 0)) * text
    else:
        value = 0.66 - 0.06 * share - 0.3 * (share == 1) - 0.01 * text
    value += 0.03 * (axes["backbone"] == "adapted") * (language == "eu")
    value += 0.06 * (axes.get("model.connector.kind") == "mlp2x_gelu")
    value += 0.04 * np.log2(axes.get("instruct.num_steps", 300) / 300)
    return float(value - {"both": 0, "instruct_only": 0.08, "align_only": 0.35}[axes["stages"]])


def _make_evaluation(folder: Path, axes: dict[str, Any], num_images: int) -> None:
    for name, content in _evaluation_files(json.dumps(axes), num_images).items():
        (folder / name).write_bytes(content)


@functools.cache
def _evaluation_files(axes_json: str, num_images: int) -> dict[str, bytes]:
    """Compute the files of an evaluation once; most tests build a grid of the same cells."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        table = pa.Table.from_pylist(_items(json.loads(axes_json), num_images), schema=SCHEMA)
        write_predictions(folder / "predictions.parquet", table)
        metrics = {name: to_plain(value) for name, value in aggregate(table, seed=0).items()}
        (folder / "metrics.json").write_text(json.dumps({"metrics": metrics}))
        checks = check_image_use(table, {}, seed=0)
        Canaries(groups=checks, num_alone=32, num_changed=0).save(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _items(axes: dict[str, Any], num_images: int) -> list[dict[str, Any]]:
    rows = []
    noise = named_rng(axes["seed"], "cell", json.dumps(axes, sort_keys=True))
    for image in range(num_images):
        for number, (_, _, base) in enumerate(_KINDS):
            for language in LANGUAGES:
                hard = named_rng(0, "item", image, number).random()
                p = base + (1 - base) * _ability(axes, language)
                is_right = 0.75 * hard + 0.25 * noise.random() < p
                rows.append(_row(image, number, language, bool(is_right)))
    return rows


def _row(image: int, number: int, language: str, is_right: bool) -> dict[str, Any]:
    benchmark, kind, base = _KINDS[number]
    words = {"yes/no": {"en": ("yes", "no"), "eu": ("bai", "ez")}, "number": {"en": ("2", "3"),
             "eu": ("2", "3")}}.get(kind)  # fmt: skip
    right, wrong = words[language] if words else _NOUNS[language][image % 2 :: 2][:2]
    reply, is_vqa = (right if is_right else wrong), benchmark == "vqa"
    is_faithful = is_right or bool(image % 5)
    expected, parsed = (None if is_vqa else right), reply
    if benchmark == "capqa":
        expected, parsed = "yes", "yes" if is_right else "no"
    question = {"en": "What is in this image?", "eu": "Zer dago argazki honetan?"}[language]
    return {
        "dataset": "benchmark_test", "question_id": f"q{image:04d}-{number}",
        "benchmark": benchmark, "question_type": "what",
        "answer_type": kind, "language": language, "image_key": _key(image),
        "question": question, "prompt": question, "answers": [right] * (10 if is_vqa else 1),
        "choices": [right, wrong] if benchmark == "mc" else [],
        "expected": expected, "output": reply, "parsed": parsed,
        "score": float(is_right), "score_aware": float(is_right) if is_vqa else None,
        "score_lmms": float(is_right) if is_vqa else None, "score_any_language": float(is_right),
        "language_identified": language if is_faithful else "en",
        "is_in_language": is_faithful or language == "en", "is_refusal": False,
        "num_tokens": 3, "is_truncated": False, "blind_output": wrong, "blind_parsed": wrong,
        "blind_score": float(image % 4 == 0), "majority_score": base if image % 2 else base / 2,
        "blind_score_aware": float(image % 4 == 0) if is_vqa else None,
        "blind_score_lmms": float(image % 4 == 0) if is_vqa else None,
        "majority_score_aware": base if is_vqa else None,
        "majority_score_lmms": base if is_vqa else None,
        "chance_score": 0.5 if benchmark == "capqa" else None,
    }  # fmt: skip


def _key(at: int) -> str:
    return f"image-{at:05d}"


@functools.cache
def _image(at: int) -> bytes:
    rng = named_rng(0, "picture", at)
    image = Image.new("RGB", (128, 128), "white")
    colour = tuple(int(x) for x in rng.integers(40, 230, 3))
    draw = ImageDraw.Draw(image)
    box = (24 + at % 7, 20, 104, 108 - at % 9)
    (draw.ellipse if at % 2 else draw.rectangle)(box, fill=colour, outline="black", width=3)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()

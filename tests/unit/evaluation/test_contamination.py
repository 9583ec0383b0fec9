"""Benchmark images in training data are found, also if stored in another format."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.shards.manifest import Modality
from evaluation.benchmarks.image_overlap import check_images
from evaluation.contamination import main
from tests.support.doubles import caption_record, write_shard, write_source


def image(seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((96, 96), Image.Resampling.NEAREST)


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, list[Path]]:
    train = [(f"t{i}", {"en": caption_record("x")}, encoded(image(i), "PNG")) for i in range(9)]
    entry = write_shard(tmp_path / "train-000000.tar", train)
    training = [Path(write_source(tmp_path, name, [entry], record="en")) for name in ("one", "two")]
    bench = [
        ("new", {"items": []}, encoded(image(100), "PNG")),
        ("same", {"items": []}, encoded(image(3), "PNG")),
        ("re-encoded", {"items": []}, encoded(image(5).resize((80, 80)), "WEBP")),
    ]
    shard = write_shard(tmp_path / "bench-000000.tar", bench)
    manifest = write_source(tmp_path, "bench", [shard], language="en", modality=Modality.BENCHMARK)
    return Path(manifest), training


def test_shared_images_are_found_by_bytes_and_by_content(
    sources: tuple[Path, list[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark, training = sources
    found = check_images(benchmark, training)
    assert (found.num_benchmark, found.num_training, found.shared) == (3, 9, ("same",))
    words = ["--benchmark", str(benchmark), "--training", *map(str, training)]
    assert main([*words, "--pixels"]) == 1
    assert "same" in json.loads(capsys.readouterr().out)["shared"]
    assert main([*words[:3], str(benchmark.parent / "absent.manifest.json")]) == 2

"""Benchmark images in training data are found, also if stored in another format."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.shards.manifest import Modality
from evaluation.benchmarks.image_overlap import check_images
from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.text_overlap import check_texts
from evaluation.contamination import main
from tests.support.doubles import caption_record, write_shard, write_source
from tests.support.evaluation_doubles import raw_items, write_benchmark


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
    found = check_images([benchmark], training)
    assert (found.num_benchmark, found.num_training, found.shared) == (3, 9, ("same",))
    words = ["--benchmark", str(benchmark), "--training", *map(str, training)]
    assert main([*words, "--pixels"]) == 1
    assert "same" in json.loads(capsys.readouterr().out)["shared"]
    assert main([*words[:3], str(benchmark.parent / "absent.manifest.json")]) == 2


@pytest.mark.parametrize(
    ("kind", "size"), [("JPEG", (96, 96)), ("WEBP", (150, 150)), ("PNG", (61, 61))]
)
def test_a_copy_in_another_format_and_size_is_found(tmp_path: Path, kind: str, size: tuple) -> None:
    """Finding M11: by bytes, a translated data set that stores its images again is always clean."""
    photos = [smooth_image(seed) for seed in range(12)]
    train = [
        (f"t{i}", {"en": caption_record("x")}, encoded(p, "PNG")) for i, p in enumerate(photos)
    ]
    training = [
        Path(write_source(tmp_path, "one", [write_shard(tmp_path / "t.tar", train)], record="en"))
    ]
    bench = [("copy", {"items": []}, encoded(photos[4].resize(size), kind))]
    bench += [(f"new{i}", {"items": []}, encoded(smooth_image(50 + i), kind)) for i in range(20)]
    shard = write_shard(tmp_path / "bench.tar", bench)
    manifest = Path(
        write_source(tmp_path, "bench", [shard], language="en", modality=Modality.BENCHMARK)
    )
    assert check_images([manifest], training).shared == ()
    found = check_images([manifest], training, by_pixels=True)
    assert found.shared == ("copy",)
    assert not found.is_sample
    some = check_images([manifest], training, by_pixels=True, max_training=6)
    assert some.is_sample
    assert some.num_training < 12


def smooth_image(seed: int) -> Image.Image:
    blocks = np.random.default_rng(seed).integers(0, 256, size=(5, 5, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((120, 120), Image.Resampling.BICUBIC)


def test_questions_with_their_answers_and_long_passages_are_found(tmp_path: Path) -> None:
    passage = "a small dog that sleeps under the old oak tree"
    raw = [{**raw_items(at)[0], "question_id": f"q{at}"} for at in range(3)]
    raw[2]["question"] = {"en": f"Does the image show {passage}?", "eu": "Zer da?"}
    samples = [(f"p{at}", {"items": [item]}, b"x%d" % at) for at, item in enumerate(raw)]
    items = load_benchmark(Path(write_benchmark(tmp_path, samples)), ["en"])
    turns = [
        ("user", "<image>\nName?"),
        ("assistant", "DOG."),
        ("user", "name?"),
        ("assistant", "tree"),
    ]
    messages = [{"role": role, "content": text} for role, text in turns]
    record = {"messages": messages}
    train = [
        ("t0", {"en": record}, b"image"),
        ("t1", {"en": caption_record(f"This is {passage}.")}, b"y"),
    ]
    shard = write_shard(tmp_path / "train.tar", train)
    training = [Path(write_source(tmp_path, "train", [shard], record="en"))]
    found = check_texts(items, training, max_training=100)
    # The question was trained on with the answers of image 0 (dog), but not of image 1 (cat).
    assert (found.num_items, found.num_pairs) == (3, 1)
    assert (found.num_long, found.num_passages) == (1, 1)
    assert (found.num_training, found.is_sample) == (2, False)
    assert check_texts(items, training, max_training=1).is_sample

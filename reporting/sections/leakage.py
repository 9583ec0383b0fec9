"""Sentences on benchmark images and texts that the cells of a grid were trained on."""

from pathlib import Path

from core.errors import DataError
from datamodules.shards.manifest import SUFFIX
from datamodules.storage.remote import StorageError
from evaluation.benchmarks.image_overlap import Contamination, check_images
from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.text_overlap import TextOverlap, check_texts
from reporting.records import GridRecord

_MAX_IMAGES, _MAX_TEXTS = 5_000, 20_000
"""Training samples that a report compares; of larger sources it takes a random sample."""


def leakage_notes(grid: GridRecord) -> list[str]:
    """Report which benchmark images and texts are in the training data of a grid."""
    manifests = [Path(f"{benchmark}{SUFFIX}") for benchmark in grid.benchmarks]
    training = sorted(
        {
            Path(path)
            for stage in grid.stages()
            if stage.kind in ("align", "instruct")
            for path in stage.data
            if path.endswith(SUFFIX)
        }
    )
    if not training:
        return []
    try:
        items = [item for path in manifests for item in load_benchmark(path)]
        images = check_images(manifests, training, by_pixels=True, max_training=_MAX_IMAGES)
        texts = check_texts(items, training, max_training=_MAX_TEXTS)
    except (DataError, StorageError, OSError):
        return [
            "The training data were not checked for images and texts of the benchmark, because the "
            "data are not available on this machine."
        ]
    return [_describe_images(images), *_describe_texts(texts)]


def _describe_images(found: Contamination) -> str:
    which = "a random sample of " if found.is_sample else ""
    compared = f"{which}{found.num_training:,} training images"
    method = "Images were decoded and compared at a reduced size, which also finds copies in other "
    method += "formats and sizes, but no crops."
    if found.shared:
        return (
            f"{len(found.shared)} of the {found.num_benchmark} images of the benchmark are among "
            f"{compared}, e.g. {found.shared[0]}; the scores are therefore too high. {method}"
        )
    return (
        f"None of the {found.num_benchmark} images of the benchmark is among {compared}. {method}"
    )


def _describe_texts(found: TextOverlap) -> list[str]:
    which = "a random sample of " if found.is_sample else ""
    text = (
        f"{found.num_pairs:,} of the {found.num_items:,} benchmark questions were trained on, "
        f"literally, with one of their accepted answers and another image (among {which}"
        f"{found.num_training:,} training samples); on these a model can be right without looking."
    )
    if found.num_long:
        text += (
            f" Of {found.num_long:,} items with a passage of eight words, {found.num_passages:,} "
            "share one with the training texts."
        )
    return [text]

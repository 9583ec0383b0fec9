"""Are images of a benchmark among those of the training: `python -m evaluation.contamination`.

By the bytes of the files, and with --pixels by their decoded, reduced content, which also finds a
image that was stored again in another format or size.
"""

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console

from core.errors import DataError
from core.process.command import catch_user_errors
from datamodules.shards.manifest import load_manifest, open_shard
from models.towers.image_transform import decode_image

_SIDE, _LEVELS = 16, 16
"""Images are compared as 16 x 16 pixels of 16 levels a channel."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Contamination:
    """What a comparison found."""

    num_benchmark: int
    """Different images of the benchmark."""
    num_training: int
    shared: tuple[str, ...]
    """Keys of benchmark images that the training has too."""
    by_pixels: bool


def check_images(
    benchmark: Path, training: Sequence[Path], *, by_pixels: bool = False
) -> Contamination:
    """Compare a benchmark's images with those of training sources.

    Sources of several languages list the same shards; each shard is read once.

    Raises:
        DataError: a manifest or shard that isn't there.
    """
    own: dict[str, str] = {}
    for key, image in _images([benchmark]):
        own.setdefault(_hash(image, by_pixels=by_pixels), key)
    known = {_hash(image, by_pixels=by_pixels) for _, image in _images(training)}
    shared = tuple(sorted(key for digest, key in own.items() if digest in known))
    return Contamination(
        num_benchmark=len(own), num_training=len(known), shared=shared, by_pixels=by_pixels
    )


def _images(manifests: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    seen: set[tuple[Path, str]] = set()
    for path in manifests:
        for entry in load_manifest(path).shards:
            place = (path.parent, entry.path)
            if place in seen:
                continue
            seen.add(place)
            reader = open_shard(path, entry)
            for row in range(len(reader)):
                _, image = reader.read(row)
                if image is not None:
                    yield reader.key(row), image
            reader.close()


def _hash(image: bytes, *, by_pixels: bool) -> str:
    if not by_pixels:
        return hashlib.sha256(image).hexdigest()
    try:
        decoded = decode_image(image)
    except DataError:
        return hashlib.sha256(image).hexdigest()
    small = decoded.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    reduced = bytes(value // (256 // _LEVELS) for value in small.tobytes())
    return hashlib.sha256(reduced).hexdigest()


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and say so; 1 if images are shared."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.contamination",
        description="Look for images of a benchmark among those of training sources.",
    )
    add = parser.add_argument
    add("--benchmark", type=Path, required=True, help="manifest of the benchmark")
    add("--training", type=Path, nargs="+", required=True, help="manifests of training sources")
    add("--pixels", action="store_true", help="by reduced content instead of by bytes (slower)")
    options = parser.parse_args(arguments)
    console = Console()
    found = check_images(options.benchmark, options.training, by_pixels=options.pixels)
    console.print_json(json.dumps(dataclasses.asdict(found)))
    return int(bool(found.shared))


if __name__ == "__main__":
    sys.exit(main())

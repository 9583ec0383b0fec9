"""Lookup of images by sample key."""

from collections.abc import Callable
from pathlib import Path

from core.errors import DataError
from datamodules.shards.manifest import load_manifest, open_shard
from datamodules.shards.reader import ShardReader

ImageLookup = Callable[[str], bytes | None]
"""Maps the key of a sample to its encoded image, or to None if it has none."""


def open_images(manifest: Path) -> ImageLookup:
    """Return a lookup of the images of a source or benchmark by sample key.

    Raises:
        DataError: If a key is in two shards.
    """
    locations: dict[str, tuple[ShardReader, int]] = {}
    for entry in load_manifest(manifest).shards:
        add_image_keys(open_shard(manifest, entry), locations)

    def find_image(key: str) -> bytes | None:
        if key not in locations:
            return None
        reader, row = locations[key]
        return reader.read(row)[1]

    return find_image


def add_image_keys(reader: ShardReader, locations: dict[str, tuple[ShardReader, int]]) -> None:
    """Add the reader and the row of each key of a shard to `locations`.

    Samples of a training source may have one key in several shards, as WebDataset allows: they are
    told apart by their position. Predictions, intervals and pages know an image by its key alone.

    Raises:
        DataError: If a key is in two shards.
    """
    for row in range(len(reader)):
        key = reader.key(row)
        if key in locations:
            first = locations[key][0].name
            raise DataError(
                f"the key '{key}' is in two shards, {first} and {reader.name}, but it names an "
                "image; rename the samples of one shard"
            )
        locations[key] = (reader, row)

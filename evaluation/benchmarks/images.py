"""Lookup of images by sample key."""

from collections.abc import Callable
from pathlib import Path

from datamodules.shards.manifest import load_manifest, open_shard

ImageLookup = Callable[[str], bytes | None]
"""Maps the key of a sample to its encoded image, or to None if it has none."""


def open_images(manifest: Path) -> ImageLookup:
    """Return a lookup of the images of a source or benchmark by sample key."""
    locations: dict[str, tuple[int, int]] = {}
    readers = [open_shard(manifest, entry) for entry in load_manifest(manifest).shards]
    for number, reader in enumerate(readers):
        locations |= {reader.key(row): (number, row) for row in range(len(reader))}

    def find_image(key: str) -> bytes | None:
        if key not in locations:
            return None
        number, row = locations[key]
        return readers[number].read(row)[1]

    return find_image

"""Every image of a source, once and in order, without its text."""

from collections.abc import Iterator
from pathlib import Path

from datamodules.shards.manifest import load_manifest, open_shard


def iterate_images(manifest_path: Path) -> Iterator[bytes]:
    """Yield the encoded images of all shards (benchmarks too, which hold no conversations)."""
    for _, image in iterate_named_images(manifest_path):
        yield image


def iterate_named_images(manifest_path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the images with words that say where each lies."""
    for entry in load_manifest(manifest_path).shards:
        reader = open_shard(manifest_path, entry)
        try:
            for row in range(len(reader)):
                image = reader.read(row)[1]
                if image is not None:
                    yield f"shard {reader.name}, sample '{reader.key(row)}'", image
        finally:
            reader.close()

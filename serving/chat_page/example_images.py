"""Example images of the chat page: some of the main benchmark of its cells."""

import base64
from pathlib import Path

from core.errors import DataError
from core.io.images import portable_image
from core.process.log import get_logger
from datamodules.shards.manifest import load_manifest, open_shard

NUM_EXAMPLES = 6
MAX_BYTES = 500_000
"""Size of a file above which an image is left out: the page loads all examples at once."""
_LOG = get_logger("chat")


def example_images(manifest_path: Path) -> list[str]:
    """Return images at equal distances in a benchmark, always the same ones, as data URIs.

    Args:
        manifest_path: Manifest of the benchmark.

    Returns:
        At most `NUM_EXAMPLES` images; none, with a warning, if the data can't be read.
    """
    try:
        return _encode_examples(manifest_path)
    except (DataError, OSError) as error:
        _LOG.warning("the page has no example images, because they can't be read: %s", error)
        return []


def _encode_examples(manifest_path: Path) -> list[str]:
    manifest = load_manifest(manifest_path)
    total = manifest.num_samples
    wanted = sorted({number * total // NUM_EXAMPLES for number in range(NUM_EXAMPLES)})
    found, start = [], 0
    for entry in manifest.shards:
        reader = open_shard(manifest_path, entry)
        for row in [row - start for row in wanted if 0 <= row - start < entry.num_samples]:
            _, content = reader.read(row)
            if not content:
                continue
            content, media_type = portable_image(content)
            if len(content) <= MAX_BYTES:
                found.append(f"data:{media_type};base64,{base64.b64encode(content).decode()}")
        reader.close()
        start += entry.num_samples
    return found

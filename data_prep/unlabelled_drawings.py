"""Unlabelled drawings for training vision towers, from public packages.

The art styles of the benchmarks (test and development) are not among them, nor is any photograph.
"""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import track

from core.errors import DataError
from core.io.images import decode_image
from data_prep.embedded.drawings import (
    SINGLE_PIXELS,
    TRAIN_STYLES,
    encode_webp,
    make_svg,
    rasterise,
    white_canvas,
)
from data_prep.embedded.packages import PackageFolder, read_lock
from data_prep.shards.folder_metadata import write_metadata
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality

NAME = "drawings"
ICON_PACKAGES = (
    *(style.package for style in TRAIN_STYLES),
    "@iconify-json/flat-color-icons",
    "@iconify-json/streamline-freehand-color",
    "@iconify-json/streamline-ultimate-color",
)
CLIP_ART_PACKAGE = "openclipart-png"
CLIP_ART_LICENCE = "CC0-1.0"

_CLIP_ART_FOLDER = "usr/share/openclipart/png/"
_SKIN_TONE = "-tone"
"""Part of the names of icons that differ in skin colour only."""
_SAMPLES_PER_SHARD = 4000
_NO_LANGUAGE = "zxx"
"""ISO 639-2 code of content without language."""
_MARGIN = 4
_DIGITS = 5


def icon_drawings(icons: dict[str, Any], package: str) -> Iterator[ShardSample]:
    """Yield every icon of a set in Iconify's format, without skin colours and aliases."""
    prefix = package.rpartition("/")[2]
    names = sorted(name for name in icons["icons"] if _SKIN_TONE not in name)
    for number, name in enumerate(names):
        png = rasterise(make_svg(icons, prefix, name), SINGLE_PIXELS - 2 * _MARGIN)
        drawing = Image.open(io.BytesIO(png)).convert("RGBA")
        yield _make_sample(f"{prefix}-{number:0{_DIGITS}d}", drawing)


def clip_art_drawings(files: Iterable[tuple[str, bytes]]) -> Iterator[ShardSample]:
    """Yield every intact image of a package of clip art; others are left out."""
    for number, (_, content) in enumerate(sorted(files)):
        try:
            image = decode_image(content)
        except DataError:
            continue
        side = SINGLE_PIXELS - 2 * _MARGIN
        image.thumbnail((side, side), Image.Resampling.BICUBIC)
        yield _make_sample(f"clipart-{number:0{_DIGITS}d}", image.convert("RGBA"))


def _make_sample(key: str, drawing: Image.Image) -> ShardSample:
    canvas = white_canvas(SINGLE_PIXELS)
    place = tuple((SINGLE_PIXELS - side) // 2 for side in drawing.size)
    canvas.paste(drawing, (place[0], place[1]), drawing)
    return ShardSample(key=key, content={}, image=encode_webp(canvas))


def build_drawings(packages: PackageFolder, folder: Path, console: Console) -> Path:
    """Write all drawings as one source without texts, and return the path of its manifest."""
    samples: list[ShardSample] = []
    for package in ICON_PACKAGES:
        icons = packages.npm_json(package, "icons.json")
        found = icon_drawings(icons, package)
        samples += track(found, package, len(icons["icons"]), console=console, transient=True)
    files = packages.debian_files(CLIP_ART_PACKAGE, _CLIP_ART_FOLDER, ".png")
    samples += track(clip_art_drawings(files), CLIP_ART_PACKAGE, console=console, transient=True)
    folder.mkdir(parents=True, exist_ok=True)
    shards = write_shards(folder, NAME, samples, per_shard=_SAMPLES_PER_SHARD)
    locks = [read_lock()[package] for package in ICON_PACKAGES]
    info = SourceInfo(
        name=NAME,
        language=_NO_LANGUAGE,
        modality=Modality.IMAGE_TEXT,
        record="",
        licence=" AND ".join(sorted({lock.licence for lock in locks} | {CLIP_ART_LICENCE})),
        provenance={
            "packages": {lock.name: {"version": lock.version, "sha256": lock.sha256}
                         for lock in locks},
            "debian_packages": [packages.debian_archive(CLIP_ART_PACKAGE).name],
        },
        statistics={"num_drawings": len(samples)},
    )  # fmt: skip
    manifest = write_manifest(folder, info, shards)
    write_metadata(folder, NAME)
    return manifest

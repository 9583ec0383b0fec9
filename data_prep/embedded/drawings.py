"""Draws the images: one thing alone, or one to four things in the cells of a 2x2 layout.

Everything is deterministic: the small shifts and sizes come from a named generator, the SVG
rasteriser (resvg) and the WebP encoder are pinned by the lock of the environment.
"""

import dataclasses
import functools
import io
from enum import StrEnum
from typing import Any

import numpy as np
from PIL import Image

from core.errors import DataError, unknown_name
from data_prep.embedded.packages import PackageFolder, read_lock

SINGLE_PIXELS = 96
SCENE_PIXELS = 128
NUM_CELLS = 4
WEBP_QUALITY = 75

_CELL_PIXELS = SCENE_PIXELS // 2
_SINGLE_SIZES = (76, 91)
_SCENE_SIZES = (52, 61)
_WEBP_EFFORT = 6


class Style(StrEnum):
    """Art styles by the vendor who drew them; the value is the column of the concept table."""

    NOTO = "noto"
    NOTO_V1 = "noto-v1"
    EMOJIONE = "emojione"
    FXEMOJI = "fxemoji"
    STREAMLINE = "streamline"
    FLUENT = "fluent-emoji-flat"
    TWEMOJI = "twemoji"

    @property
    def package(self) -> str:
        """The npm package that holds the style."""
        suffix = "-emojis" if self is Style.STREAMLINE else ""
        return f"@iconify-json/{self.value}{suffix}"

    @property
    def licence(self) -> str:
        """SPDX name of the licence of the images."""
        return read_lock()[self.package].licence


TRAIN_STYLES = (Style.NOTO, Style.NOTO_V1, Style.EMOJIONE, Style.FXEMOJI, Style.STREAMLINE)
DEV_STYLE = Style.FLUENT
TEST_STYLE = Style.TWEMOJI


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One icon of one style, to be put into an image."""

    style: Style
    icon: str


class Painter:
    """Turns icons of the packages into encoded images."""

    def __init__(self, packages: PackageFolder) -> None:
        self._packages = packages

    def single(self, drawing: Drawing, rng: np.random.Generator) -> bytes:
        """An image of one thing, its size and place varied a little."""
        canvas = _white(SINGLE_PIXELS)
        self._place(canvas, drawing, (0, 0, SINGLE_PIXELS), int(rng.integers(*_SINGLE_SIZES)), rng)
        return _encode(canvas)

    def scene(self, cells: tuple[Drawing | None, ...], rng: np.random.Generator) -> bytes:
        """An image of up to four things: top left, top right, bottom left, bottom right."""
        canvas = _white(SCENE_PIXELS)
        for cell, drawing in enumerate(cells):
            if drawing is not None:
                left, top = cell % 2 * _CELL_PIXELS, cell // 2 * _CELL_PIXELS
                size = int(rng.integers(*_SCENE_SIZES))
                self._place(canvas, drawing, (left, top, _CELL_PIXELS), size, rng)
        return _encode(canvas)

    def _place(
        self,
        canvas: Image.Image,
        drawing: Drawing,
        box: tuple[int, int, int],
        size: int,
        rng: np.random.Generator,
    ) -> None:
        left, top, room = box
        icon = self._raster(drawing.style, drawing.icon, size)
        x, y = (int(rng.integers(0, room - size + 1)) for _ in range(2))
        canvas.paste(icon, (left + x, top + y), icon)

    @functools.cache  # noqa: B019 - a painter lives as long as one build
    def _raster(self, style: Style, icon: str, size: int) -> Image.Image:
        svg = _svg(self._icons(style), style, icon)
        png = _rasterise(svg, size)
        return Image.open(io.BytesIO(png)).convert("RGBA")

    @functools.cache  # noqa: B019 - a painter lives as long as one build
    def _icons(self, style: Style) -> dict[str, Any]:
        icons: dict[str, Any] = self._packages.npm_json(style.package, "icons.json")
        return icons


def _rasterise(svg: str, size: int) -> bytes:
    try:
        import resvg_py  # needed to build data, not to use them
    except ImportError as error:
        message = "resvg-py is not installed, so nothing can be drawn; pip install -e '.[data]'"
        raise DataError(message) from error
    return bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    )


def _svg(icons: dict[str, Any], style: Style, name: str) -> str:
    while name not in icons["icons"]:
        if name not in icons.get("aliases", {}):
            raise DataError(unknown_name(f"icon of {style}", name, icons["icons"]))
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"][name]
    left, top = (icon.get(key, icons.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def _white(pixels: int) -> Image.Image:
    return Image.new("RGB", (pixels, pixels), "white")


def _encode(canvas: Image.Image) -> bytes:
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=WEBP_QUALITY, method=_WEBP_EFFORT)
    return buffer.getvalue()

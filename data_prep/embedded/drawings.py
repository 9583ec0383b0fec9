"""Drawing of the images: a single icon, or one to four icons in the quadrants of a scene.

The output is deterministic: positions and sizes come from a named generator, and the environment
pins the SVG rasteriser (resvg) and the WebP encoder.
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
NUM_QUADRANTS = 4
WEBP_QUALITY = 75

_QUADRANT_PIXELS = SCENE_PIXELS // 2
_SINGLE_SIZES = (76, 91)
_SCENE_SIZES = (52, 61)
_WEBP_EFFORT = 6
_VARIED_SINGLE_SIZES, _VARIED_SCENE_SIZES = (60, 93), (44, 62)
_MAX_ANGLE = 15
_PALEST = 205
"""Smallest value of a colour channel of a background."""


class Style(StrEnum):
    """Art styles, named by vendor; the value is a column of the concept table."""

    NOTO = "noto"
    NOTO_V1 = "noto-v1"
    EMOJIONE = "emojione"
    FXEMOJI = "fxemoji"
    STREAMLINE = "streamline"
    FLUENT = "fluent-emoji-flat"
    TWEMOJI = "twemoji"

    @property
    def package(self) -> str:
        """The npm package of the style."""
        suffix = "-emojis" if self is Style.STREAMLINE else ""
        return f"@iconify-json/{self.value}{suffix}"

    @property
    def licence(self) -> str:
        """SPDX identifier of the licence of the icons."""
        return read_lock()[self.package].licence


TRAIN_STYLES = (Style.NOTO, Style.NOTO_V1, Style.EMOJIONE, Style.FXEMOJI, Style.STREAMLINE)
DEV_STYLE = Style.FLUENT
TEST_STYLE = Style.TWEMOJI


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StyledIcon:
    """An icon in an art style."""

    style: Style
    icon: str


class Painter:
    """Composes icons of the packages into encoded images."""

    def __init__(self, packages: PackageFolder) -> None:
        self._packages = packages

    def single(self, icon: StyledIcon, rng: np.random.Generator) -> bytes:
        """Draw an image of one icon with a slightly varied size and position."""
        canvas = white_canvas(SINGLE_PIXELS)
        self._paste_icon(
            canvas, icon, (0, 0, SINGLE_PIXELS), int(rng.integers(*_SINGLE_SIZES)), rng
        )
        return encode_webp(canvas)

    def training_image(
        self,
        quadrants: tuple[StyledIcon | None, ...],
        rng: np.random.Generator,
        *,
        is_scene: bool,
    ) -> bytes:
        """Draw a single icon or a scene in a varied view.

        Size, position, rotation, mirroring and background vary, so that no two images of the same
        icon are alike. Half of the backgrounds are white, as in the benchmark.
        """
        pixels = SCENE_PIXELS if is_scene else SINGLE_PIXELS
        colour = (255, 255, 255)
        if rng.integers(2):
            red, green, blue = (int(value) for value in rng.integers(_PALEST, 256, size=3))
            colour = (red, green, blue)
        canvas = Image.new("RGB", (pixels, pixels), colour)
        room = _QUADRANT_PIXELS if is_scene else SINGLE_PIXELS
        sizes = _VARIED_SCENE_SIZES if is_scene else _VARIED_SINGLE_SIZES
        for quadrant, icon in enumerate(quadrants):
            if icon is not None:
                left, top = quadrant % 2 * room, quadrant // 2 * room
                size = int(rng.integers(*sizes))
                self._paste_icon(canvas, icon, (left, top, room), size, rng, is_varied=True)
        return encode_webp(canvas)

    def scene(self, quadrants: tuple[StyledIcon | None, ...], rng: np.random.Generator) -> bytes:
        """Draw up to four icons: top left, top right, bottom left, bottom right."""
        canvas = white_canvas(SCENE_PIXELS)
        for quadrant, icon in enumerate(quadrants):
            if icon is not None:
                left, top = quadrant % 2 * _QUADRANT_PIXELS, quadrant // 2 * _QUADRANT_PIXELS
                size = int(rng.integers(*_SCENE_SIZES))
                self._paste_icon(canvas, icon, (left, top, _QUADRANT_PIXELS), size, rng)
        return encode_webp(canvas)

    def _paste_icon(
        self,
        canvas: Image.Image,
        icon: StyledIcon,
        box: tuple[int, int, int],
        size: int,
        rng: np.random.Generator,
        *,
        is_varied: bool = False,
    ) -> None:
        left, top, room = box
        raster = self._rasterise_icon(icon.style, icon.icon, size)
        if is_varied:
            raster = _turn(raster, rng)
        x, y = (int(rng.integers(0, room - size + 1)) for _ in range(2))
        canvas.paste(raster, (left + x, top + y), raster)

    @functools.cache  # noqa: B019 - a painter lives as long as one build
    def _rasterise_icon(self, style: Style, icon: str, size: int) -> Image.Image:
        svg = make_svg(self._load_icons(style), style, icon)
        png = rasterise(svg, size)
        return Image.open(io.BytesIO(png)).convert("RGBA")

    @functools.cache  # noqa: B019 - a painter lives as long as one build
    def _load_icons(self, style: Style) -> dict[str, Any]:
        icons: dict[str, Any] = self._packages.npm_json(style.package, "icons.json")
        return icons


def rasterise(svg: str, size: int) -> bytes:
    """Return an SVG drawing as a PNG of a square size.

    Raises:
        DataError: If the rasteriser is not installed.
    """
    try:
        import resvg_py  # only needed to build the data
    except ImportError as error:
        message = "resvg-py is not installed; pip install -e '.[data]'"
        raise DataError(message) from error
    return bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    )


def make_svg(icons: dict[str, Any], style: str, name: str) -> str:
    """Return an icon of a set in Iconify's format as SVG; aliases are followed.

    Raises:
        DataError: If the set has no such icon.
    """
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


def _turn(raster: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Mirror a drawing half of the time, and rotate it by up to 15 degrees."""
    if rng.integers(2):
        raster = raster.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    angle = int(rng.integers(-_MAX_ANGLE, _MAX_ANGLE + 1))
    return raster.rotate(angle, resample=Image.Resampling.BICUBIC)


def white_canvas(pixels: int) -> Image.Image:
    """Return a white square."""
    return Image.new("RGB", (pixels, pixels), "white")


def encode_webp(canvas: Image.Image) -> bytes:
    """Encode an image as the shipped ones are encoded."""
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=WEBP_QUALITY, method=_WEBP_EFFORT)
    return buffer.getvalue()

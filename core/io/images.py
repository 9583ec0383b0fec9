"""Decoding of untrusted images: a fixed list of formats, upright orientation, 8-bit RGB.

Every image that enters the project passes through this module: training shards, benchmarks,
downloads, indexes and web pages. Only formats that Pillow decodes itself are opened, so the content
of a file never starts an external program (Pillow renders PostScript with Ghostscript).
"""

import io
import re
import warnings

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from core.errors import UNDECODABLE, DataError
from core.io.image_types import image_type

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
"""Formats that are decoded. An animation is represented by its first frame."""

MAX_PIXELS = 64_000_000
"""Largest image to decode; a file of a few kilobytes may expand to gigabytes of memory."""

MAX_ASPECT_RATIO = 64
"""Maximum ratio of the sides; beyond it the resized image would be huge."""

MAX_SCANS = 100
"""Largest number of scans of a JPEG; each takes time in proportion to the pixels, even if it is
empty. Progressive images have about ten."""

_JPEG_FORMATS = frozenset({"JPEG", "MPO"})
_SCAN_MARK = b"\xff\xda"
_IN_MEMORY = re.compile(r"<_io\.BytesIO[^>]*>")
_METADATA = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})
"""Keys of `Image.info` that may hold an orientation."""
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation in Exif -> transposition that turns the stored pixels upright."""
_FIRST_SWAPPED = 5
"""Orientation from which width and height are exchanged."""
_PORTABLE_TYPES = frozenset({"image/jpeg", "image/png", "image/webp"})
_MAX_16_BIT, _WHITE = 65535, 255


def image_size(image_bytes: bytes) -> tuple[int, int]:
    """Return width and height of the upright image from its header, without decoding pixels.

    Raises:
        DataError: If the bytes are not an image of `IMAGE_FORMATS`, or the image is too large.
    """
    try:
        image = _open_image(image_bytes)
        width, height = image.size
        is_turned = _read_orientation(image, image_bytes) >= _FIRST_SWAPPED
        return (height, width) if is_turned else (width, height)
    except DataError:
        raise
    # Pillow's format plug-ins raise exceptions of any class for damaged files.
    except Exception as error:
        raise _undecodable(image_bytes, error) from error


def decode_image(image_bytes: bytes) -> Image.Image:
    """Decode an image to upright 8-bit RGB; transparent images get a white background.

    The orientation in the metadata is applied, as browsers and image viewers do. Gray values of 16
    bits are scaled to 8 bits.

    Raises:
        DataError: If the bytes are not an image of `IMAGE_FORMATS`, are damaged, or the image is
            too large.
    """
    try:
        image = _open_image(image_bytes)
        _check_scans(image, image_bytes)
        orientation = _read_orientation(image, image_bytes)
        image.load()
        image = _to_rgb(image)
    except DataError:
        raise
    # Pillow's format plug-ins raise exceptions of any class for damaged files.
    except Exception as error:
        raise _undecodable(image_bytes, error) from error
    transposition = _TRANSPOSITIONS.get(orientation)
    return image if transposition is None else image.transpose(transposition)


def portable_image(
    image_bytes: bytes, *, media_types: frozenset[str] = _PORTABLE_TYPES
) -> tuple[bytes, str]:
    """Return an image and its media type in a form that browsers and servers show alike.

    Still images of `media_types` without an orientation are returned unchanged; others become PNG
    as they are decoded, an animation as its first frame.

    Args:
        image_bytes: An encoded image.
        media_types: Formats that the receiver can show.

    Raises:
        DataError: If the image can't be decoded.
    """
    media_type = image_type(image_bytes)
    if media_type in media_types and _is_shown_as_decoded(image_bytes):
        return image_bytes, media_type
    buffer = io.BytesIO()
    decode_image(image_bytes).save(buffer, "PNG")
    return buffer.getvalue(), "image/png"


def _is_shown_as_decoded(image_bytes: bytes) -> bool:
    try:
        image = _open_image(image_bytes)
        _check_scans(image, image_bytes)
        is_turned = _read_orientation(image, image_bytes) in _TRANSPOSITIONS
        return not is_turned and not getattr(image, "is_animated", False)
    except DataError:
        raise
    except Exception as error:  # see decode_image
        raise _undecodable(image_bytes, error) from error


def _open_image(image_bytes: bytes) -> Image.Image:
    """Read the header of an image and check its size."""
    with warnings.catch_warnings():
        # About large images, whose limit is checked below, and about damaged metadata.
        warnings.simplefilter("ignore")
        image: Image.Image = Image.open(io.BytesIO(image_bytes), formats=IMAGE_FORMATS)
    _check_size(*image.size)
    return image


def _read_orientation(image: Image.Image, image_bytes: bytes) -> int:
    """Return the orientation in the metadata, 1 (upright) if there is none or it is damaged."""
    # A PNG may store Exif after its pixels; reading it there would decode the whole image.
    is_late = image.format == "PNG" and b"eXIf" in image_bytes
    if not is_late and _METADATA.isdisjoint(image.info):
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged metadata
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    # Viewers show an image with damaged metadata as it is stored, whatever Pillow raises for it.
    except Exception:  # noqa: BLE001
        return 1
    return orientation if orientation in _TRANSPOSITIONS else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I" or image.mode.startswith("I;16"):
        gray_HW = np.asarray(image).astype(np.int64)
        if gray_HW.min() < 0 or gray_HW.max() > _MAX_16_BIT:
            message = "image has grey values of more than 16 bits; convert it to 8 bits"
            raise DataError(message, UNDECODABLE)
        scaled_HW = (gray_HW * 255 + _MAX_16_BIT // 2) // _MAX_16_BIT
        if isinstance(transparent := image.info.get("transparency"), int):
            scaled_HW[gray_HW == transparent] = _WHITE
        return Image.fromarray(scaled_HW.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        message = f"image of {width}x{height} pixels exceeds {MAX_PIXELS} pixels; downscale it"
        raise DataError(message, "image too large")
    if max(width, height) > MAX_ASPECT_RATIO * max(1, min(width, height)):
        limit = f"{MAX_ASPECT_RATIO}:1"
        message = f"image of {width}x{height} pixels exceeds an aspect ratio of {limit}; crop it"
        raise DataError(message, "image too long")


def _check_scans(image: Image.Image, image_bytes: bytes) -> None:
    if image.format not in _JPEG_FORMATS or _has_one_scan(image, image_bytes):
        return
    if _count_scans(image_bytes) > MAX_SCANS:
        message = f"image has more than {MAX_SCANS} scans, which take long to decode; save it again"
        raise DataError(message, UNDECODABLE)


def _has_one_scan(image: Image.Image, jpeg: bytes) -> bool:
    """Return whether the first scan has all colours, so that the decoder reads no other."""
    if not isinstance(image, JpegImageFile) or image.fp is None or "progressive" in image.info:
        return False
    end = image.fp.tell()  # Pillow stops behind the header of the first scan
    size = 6 + 2 * image.layers
    header = _SCAN_MARK + size.to_bytes(2, "big") + bytes([image.layers])
    return end > size + 2 and jpeg.startswith(header, end - size - 2)


def _count_scans(jpeg: bytes) -> int:
    # Entropy-coded data never contains the mark, so few others are counted than those of scans.
    first, second = _SCAN_MARK
    values = np.frombuffer(jpeg, dtype=np.uint8)
    return int(np.count_nonzero((values[:-1] == first) & (values[1:] == second)))


def _undecodable(image_bytes: bytes, error: Exception) -> DataError:
    # Pillow's message contains an address in memory, which differs every time.
    reason = f"{type(error).__name__}: {_IN_MEMORY.sub('the bytes', str(error))}"
    formats = ", ".join(IMAGE_FORMATS)
    return DataError(
        f"image of {len(image_bytes)} bytes can't be decoded: {reason} (formats: {formats})",
        UNDECODABLE,
    )

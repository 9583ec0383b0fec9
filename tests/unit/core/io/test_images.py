"""Decoding of untrusted images: allowed formats, orientation, bit depths, and mutated files."""

import io
import random
import struct
import subprocess
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from core.errors import DataError
from core.io import images
from core.io.endpoint import SENT_TYPES
from core.io.images import (
    IMAGE_FORMATS,
    MAX_PIXELS,
    MAX_SCANS,
    decode_image,
    image_size,
    portable_image,
)

ORIENTATION = 0x0112
NUM_MUTANTS = 50_000


def encode(array_HWC: np.ndarray, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array_HWC).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def turned(orientation: int, kind: str) -> bytes:
    """Return an image of 40x20 pixels, its left half red, with an orientation in its metadata."""
    pixels = np.zeros((20, 40, 3), dtype=np.uint8)
    pixels[:, :20, 0] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(pixels, kind, exif=exif)


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
    return buffer.getvalue()


def test_transparent_pixels_become_white_and_grey_becomes_rgb() -> None:
    rgba = noise(8, 8, 4)
    rgba[..., 3] = 0
    assert np.asarray(decode_image(encode(rgba))).min() == 255
    assert decode_image(encode(noise(8, 8)[..., 0])).mode == "RGB"


def test_every_truncation_is_a_data_error() -> None:
    for kind in ("png", "webp", "jpeg"):
        content = encode(noise(40, 40), kind)
        for end in (0, 1, 12, len(content) // 2):
            with pytest.raises(DataError, match="bytes"):
                decode_image(content[:end])


def test_garbage_is_a_data_error() -> None:
    with pytest.raises(DataError, match="UnidentifiedImageError"):
        decode_image(b"<html>404</html>" * 10)


def png_header(width: int, height: int) -> bytes:
    """Build a PNG of a few bytes that declares a huge size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9000, 9000), (60000, 60000), (65000, 1)])
def test_image_bombs_are_rejected_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"pixels|Bomb"):
        decode_image(png_header(*size))


def test_the_pixel_limit_allows_photographs() -> None:
    assert MAX_PIXELS >= 8000 * 6000


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_viewers_turn_them(kind: str, orientation: int) -> None:
    from PIL import ImageOps

    content = turned(orientation, kind)
    with Image.open(io.BytesIO(content)) as stored:
        expected = ImageOps.exif_transpose(stored).convert("RGB")
    decoded = decode_image(content)
    assert decoded.size == expected.size == image_size(content)
    assert decoded.tobytes() == expected.tobytes()


def test_damaged_metadata_leaves_an_image_as_it_is_stored() -> None:
    content = turned(6, "jpeg")
    at = content.index(b"Exif\0\0") + 6
    broken = content[:at] + b"\xff" * 8 + content[at + 8 :]
    assert decode_image(broken).size == image_size(broken) == (40, 20)
    assert decode_image(content).size == image_size(content) == (20, 40)


def test_metadata_that_is_no_text_or_divides_by_zero_leaves_an_image_as_it_is_stored() -> None:
    """Both end the iteration of other data loaders (datasets, issues 7668 and 8165)."""
    pixels = noise(20, 40)
    exif = Image.Exif()
    exif[0x011A] = (1, 0)  # resolution of 1/0
    for content in (
        encode(pixels, "jpeg", xmp=b"\xa8\xff<tiff:"),
        encode(pixels, "jpeg", exif=exif),
    ):
        assert decode_image(content).size == image_size(content) == (40, 20)
        assert portable_image(content) == (content, "image/jpeg")


def test_gray_values_of_16_bits_are_scaled() -> None:
    ramp = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    decoded = np.asarray(decode_image(encode(ramp)))
    assert decoded.shape == (4, 256, 3)
    assert np.abs(decoded[..., 0] - ramp / 257.0).max() <= 0.5 + 1e-9


def test_colors_of_print_and_palettes_decode() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(buffer, "JPEG")
    red, green, blue = np.asarray(decode_image(buffer.getvalue())).reshape(-1, 3).mean(axis=0)
    assert red > 200
    assert max(green, blue) < 60
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([10, 20, 30, 0, 0, 0])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=0)
    assert np.asarray(decode_image(buffer.getvalue())).min() == 255


def test_an_animation_is_its_first_frame() -> None:
    for kind in ("GIF", "WEBP", "PNG"):
        assert np.asarray(decode_image(animation(kind)))[0, 0].tolist() == [255, 0, 0]


def test_a_transparent_gray_value_of_16_bits_becomes_white() -> None:
    gray = np.array([[0, 1000], [2000, 65535]], dtype=np.uint16)
    decoded = np.asarray(decode_image(encode(gray, transparency=1000)))
    assert decoded[..., 0].tolist() == [[0, 255], [8, 255]]


def repeat_scan(content: bytes, scan: bytes) -> bytes:
    return content[: content.index(b"\xff\xda")] + scan * (MAX_SCANS + 1) + b"\xff\xd9"


def test_a_jpeg_of_many_scans_is_rejected_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progressive image, and one whose first scan has one of three colours."""
    content = encode(noise(64, 64), "jpeg", progressive=True)
    one_color = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00\x00"
    bombs = [
        repeat_scan(content, content[content.rindex(b"\xff\xda") : -2]),
        repeat_scan(encode(noise(64, 64), "jpeg"), one_color),
    ]
    assert decode_image(content).size == (64, 64)
    monkeypatch.setattr(JpegImageFile, "load", None)
    for bomb in bombs:
        for check in (decode_image, portable_image):
            with pytest.raises(DataError, match="more than 100 scans"):
                check(bomb)


def test_scans_are_counted_only_where_a_decoder_reads_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counting them takes one to five per cent of decoding an image."""
    content = encode(noise(64, 64), "jpeg")
    repeated = repeat_scan(content, content[content.index(b"\xff\xda") : -2])
    monkeypatch.setattr(images, "_count_scans", None)
    assert decode_image(content).size == (64, 64)
    with pytest.raises(DataError, match="can't be decoded"):
        decode_image(repeated)


@pytest.mark.parametrize("kind", ["EPS", "TIFF", "PPM", "TGA", "ICO", "SGI"])
def test_other_formats_are_rejected_and_start_no_program(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **_options: object) -> None:
        raise AssertionError(f"started {arguments}")

    monkeypatch.setattr(subprocess, "Popen", fail)
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32)).save(buffer, kind)
    for check in (decode_image, image_size, portable_image):
        with pytest.raises(DataError, match=r"can't be decoded: .*formats: JPEG"):
            check(buffer.getvalue())


def test_portable_images_are_kept_and_others_become_png() -> None:
    plain = encode(noise(8, 8), "jpeg")
    assert portable_image(plain) == (plain, "image/jpeg")
    turned_or_old = (turned(6, "jpeg"), encode(noise(8, 8), "bmp"))
    for content in (*turned_or_old, animation("WEBP"), animation("PNG")):
        converted, media_type = portable_image(content)
        assert media_type == "image/png"
        assert decode_image(converted).tobytes() == decode_image(content).tobytes()


def test_a_receiver_without_webp_gets_a_lossless_png() -> None:
    sent, media_type = portable_image(encode(noise(9, 7), "webp"), media_types=SENT_TYPES)
    assert (media_type, sent[:4]) == ("image/png", b"\x89PNG")
    assert decode_image(sent).tobytes() == decode_image(encode(noise(9, 7), "webp")).tobytes()
    for kind in ("jpeg", "png"):
        content = encode(noise(9, 7), kind)
        assert portable_image(content, media_types=SENT_TYPES) == (content, f"image/{kind}")


def mutate(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(changed))
        choice = rng.randrange(4)
        if choice == 0:
            changed[at] = rng.randrange(256)
        elif choice == 1:
            changed[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff"))
        elif choice == 2:
            del changed[at : at + rng.randrange(1, 32)]
        else:
            changed[at:at] = changed[: rng.randrange(1, 32)]
        if not changed:
            changed += b"\0"
    return bytes(changed)


@pytest.mark.slow
def test_mutated_images_raise_data_errors_only_in_bounded_time() -> None:
    rng = random.Random(0)
    rgba = noise(12, 17, 4)
    seeds = [encode(rgba[..., :3], kind) for kind in IMAGE_FORMATS]
    seeds += [encode(rgba, "png"), encode(rgba[..., 0], "png"), turned(6, "png")]
    seeds += [turned(3, "jpeg"), turned(8, "webp"), encode(rgba[..., 0].astype(np.uint16), "png")]
    num_decoded, slowest = 0, 0.0
    for number in range(NUM_MUTANTS):
        mutant = mutate(seeds[number % len(seeds)], rng)
        start = time.process_time()  # other tests run at the same time
        try:
            size = image_size(mutant)
            assert decode_image(mutant).size == size
            num_decoded += 1
        except DataError:
            pass
        slowest = max(slowest, time.process_time() - start)
    assert num_decoded > NUM_MUTANTS // 20
    assert slowest < 5

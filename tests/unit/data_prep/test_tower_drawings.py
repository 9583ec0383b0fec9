"""Unlabelled drawings: icons without skin colours, intact clip art, one source."""

import io

import pytest
from PIL import Image

from core.io.images import decode_image
from data_prep.embedded.drawings import DEV_STYLE, TEST_STYLE
from data_prep.unlabelled_drawings import ICON_PACKAGES, clip_art_drawings, icon_drawings

ICONS = {
    "width": 16, "height": 16, "aliases": {"rouge": {"parent": "red"}},
    "icons": {name: {"body": '<rect width="16" height="16" fill="red"/>'}
              for name in ("red", "hand-medium-dark-skin-tone", "a-" + "long-" * 20)},
}  # fmt: skip


def test_every_icon_is_drawn_once_without_skin_colours() -> None:
    pytest.importorskip("resvg_py")
    samples = list(icon_drawings(ICONS, "@iconify-json/test"))
    assert [sample.key for sample in samples] == ["test-00000", "test-00001"]
    for sample in samples:
        image = decode_image(sample.image or b"")
        assert image.size == (96, 96)
        assert min(image.getpixel((0, 0))) > 245
        red, green, blue = image.getpixel((48, 48))
        assert red > 240
        assert max(green, blue) < 20


def test_clip_art_keeps_its_proportions_and_damaged_files_are_left_out() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (200, 50), "blue").save(buffer, "PNG")
    files = [("b.png", buffer.getvalue()), ("a.png", b"no image")]
    (sample,) = clip_art_drawings(files)
    assert sample.key == "clipart-00001"
    image = decode_image(sample.image or b"")
    assert image.getpixel((48, 48))[2] > 200
    assert min(image.getpixel((48, 20))) > 245


def test_the_styles_of_the_benchmarks_are_not_among_the_drawings() -> None:
    assert TEST_STYLE.package not in ICON_PACKAGES
    assert DEV_STYLE.package not in ICON_PACKAGES

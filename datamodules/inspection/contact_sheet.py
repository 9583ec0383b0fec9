"""Contact sheets: a PNG with the images of some samples, each with its first question."""

import dataclasses
import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from core.chat.tokens import IMAGE_MARK
from core.errors import ConfigError, DataError
from core.io.files import atomic_write_bytes
from core.samples import Role, Sample

_NUM_COLUMNS = 6
_IMAGE_SIZE, _MARGIN, _LINE_HEIGHT = 160, 10, 15
_NUM_TEXT_LINES, _CHARS_PER_LINE = 4, 25
_CELL_WIDTH = _IMAGE_SIZE + 2 * _MARGIN
_CELL_HEIGHT = _IMAGE_SIZE + (_NUM_TEXT_LINES + 2) * _LINE_HEIGHT + 2 * _MARGIN
_FONT_SIZE = 11
_TEXT_COLOUR, _TITLE_COLOUR, _ERROR_COLOUR = (20, 20, 20), (110, 110, 110), (225, 225, 225)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SheetCell:
    """One image of a contact sheet with its title and text."""

    image: bytes
    title: str
    text: str


def cell_of(sample: Sample, *, title: str) -> SheetCell:
    """Return the cell of a sample with an image."""
    return SheetCell(image=sample.image or b"", title=title, text=first_question(sample))


def first_question(sample: Sample) -> str:
    """Return the first question and its answer, or the caption if there is no question."""
    texts = dict.fromkeys(Role, "")
    for turn in sample.turns:
        texts[turn.role] = texts[turn.role] or turn.content.replace(IMAGE_MARK, "").strip()
    question, answer = texts[Role.USER], texts[Role.ASSISTANT] or texts[Role.TEXT]
    return f"{question} - {answer}" if question else answer


def write_sheet(
    path: Path, cells: Sequence[SheetCell], decode: Callable[[bytes], Image.Image]
) -> None:
    """Draw the cells row by row, with the error on a grey square for an undecodable image.

    Args:
        path: The PNG file to write.
        cells: Images with their titles and texts.
        decode: Decodes an image to RGB; raises DataError if it can't.

    Raises:
        ConfigError: If the path does not end in `.png`, or if there are no cells.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--sheet {path} ends in '{path.suffix}'; use a .png file")
    if not cells:
        raise ConfigError("no sample of this step has an image; remove --sheet")
    num_rows = -(-len(cells) // _NUM_COLUMNS)
    size = (min(len(cells), _NUM_COLUMNS) * _CELL_WIDTH, num_rows * _CELL_HEIGHT)
    sheet = Image.new("RGB", size, "white")
    for number, cell in enumerate(cells):
        row, column = divmod(number, _NUM_COLUMNS)
        _draw_cell(
            sheet, cell, decode, column * _CELL_WIDTH + _MARGIN, row * _CELL_HEIGHT + _MARGIN
        )
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    atomic_write_bytes(path, buffer.getvalue())


def _draw_cell(
    sheet: Image.Image, cell: SheetCell, decode: Callable[[bytes], Image.Image], left: int, top: int
) -> None:
    text = cell.text
    try:
        image = decode(cell.image)
    except DataError as error:
        image, text = Image.new("RGB", (_IMAGE_SIZE, _IMAGE_SIZE), _ERROR_COLOUR), str(error)
    scale = _IMAGE_SIZE / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    sheet.paste(image, (left + (_IMAGE_SIZE - width) // 2, top + (_IMAGE_SIZE - height) // 2))
    # Pillow's default font lacks the letters of many languages.
    font = ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _FONT_SIZE)
    draw = ImageDraw.Draw(sheet)
    lines = textwrap.wrap(text, _CHARS_PER_LINE, max_lines=_NUM_TEXT_LINES, placeholder=" ...")
    title = textwrap.shorten(cell.title, _CHARS_PER_LINE + 2, placeholder="..")
    for number, (line, colour) in enumerate(
        [(title, _TITLE_COLOUR), *((line, _TEXT_COLOUR) for line in lines)]
    ):
        corner = (left, top + _IMAGE_SIZE + number * _LINE_HEIGHT + _LINE_HEIGHT // 2)
        draw.text(corner, line, fill=colour, font=font)

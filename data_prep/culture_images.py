"""Command that draws the images of the example benchmark in `data/culture`.

python -m data_prep.culture_images
"""

from core.process.command import catch_user_errors

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from core.io.files import atomic_write_bytes
from core.io.reading import reading
from core.process.options import given_path
from data_prep.embedded.packages import DEFAULT_FOLDER, PackageFolder

CULTURE_FOLDER = Path("data/culture")
_EPILOG = """examples:
  python -m data_prep.culture_images
"""


def draw_images(folder: Path, packages: PackageFolder) -> int:
    """Draw every image that the English questions in a folder name.

    Returns:
        The number of images drawn.
    """
    from core.rng import named_rng
    from data_prep.embedded.drawings import Painter, Style, StyledIcon

    painter = Painter(packages)
    table = folder / "en.csv"
    with (
        reading(table, fix="restore the file"),
        table.open(encoding="utf-8", newline="") as file,
    ):
        names = sorted({row["image"] for row in csv.DictReader(file)})
    for name in names:
        icon = StyledIcon(style=Style.NOTO, icon=Path(name).stem)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(folder / name, painter.single(icon, named_rng(0, "culture", name)))
    return len(names)


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the images and print their number."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.culture_images",
        description="Draw the images of the example benchmark in data/culture from Noto Emoji.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--packages",
        type=given_path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="folder with the npm packages; missing ones are downloaded (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    count = draw_images(CULTURE_FOLDER, PackageFolder(options.packages))
    sys.stdout.write(f"{count} images in {CULTURE_FOLDER}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

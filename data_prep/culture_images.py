"""Command line: draw the images of the example benchmark in `data/culture`.

python -m data_prep.culture_images
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from core.io.files import atomic_write_bytes
from core.process.command import clear_errors
from core.rng import named_rng
from data_prep.embedded.drawings import Drawing, Painter, Style
from data_prep.embedded.packages import DEFAULT_FOLDER, PackageFolder

FOLDER = Path("data/culture")


def draw(folder: Path, packages: PackageFolder) -> int:
    """Draw every image that the folder's English questions name; returns how many."""
    painter = Painter(packages)
    with (folder / "en.csv").open(encoding="utf-8", newline="") as file:
        names = sorted({row["image"] for row in csv.DictReader(file)})
    for name in names:
        drawing = Drawing(style=Style.NOTO, icon=Path(name).stem)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(folder / name, painter.single(drawing, named_rng(0, "culture", name)))
    return len(names)


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, and say how many."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.culture_images",
        description="Draw the images of data/culture from Noto Emoji (npm).",
    )
    add = parser.add_argument
    add("--packages", type=Path, default=DEFAULT_FOLDER, help="folder with packages")
    options = parser.parse_args(arguments)
    count = draw(FOLDER, PackageFolder(options.packages))
    sys.stdout.write(f"{count} images in {FOLDER}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Command that builds the data shipped in the repository from public packages, bit for bit.

Example: `python -m data_prep.embedded --languages en eu --out data/embedded`.
"""

from core.process.command import catch_user_errors

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from core.errors import DataError
from core.io.files import sha256_file, sole_writer
from core.process.options import given_path, whole_number
from data_prep.embedded.packages import DEFAULT_FOLDER, PackageFolder
from data_prep.embedded.wordings import NUM_CONCEPTS

if TYPE_CHECKING:
    from rich.console import Console

    from data_prep.embedded.build import Builder

_EPILOG = """examples:
  python -m data_prep.embedded --languages en ca --out data/embedded_ca
  python -m data_prep.embedded --check
"""

_OTHER_NAMES = (
    *("benchmark-dev-*", "benchmark_dev.*"),
    *("photos-*", "photos.*", ".photos.lock", "photo-descriptions-*", "photo_descriptions.*"),
)
"""Files of `--with-dev` and of `data_prep.photographs`, which are not shipped."""
_COLLECTED_NAMES = ("culture-*", "culture_*", "README.md", "croissant.json")
"""Files of `data_prep.native_study`, and those that describe all sources of the folder."""
_IGNORED = "\n".join(
    ("# Built with --with-dev or by data_prep.photographs; not shipped.", *_OTHER_NAMES, "")
)

_T = TypeVar("_T")


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Build the data, or compare the existing data with a fresh build."""
    options = _build_parser().parse_args(arguments)
    started = time.perf_counter()
    from data_prep.embedded.build import Builder, BuildPlan
    from data_prep.embedded.corpus import build_corpus

    console = _open_console()
    packages = PackageFolder(options.packages, report=console.log)
    plan = BuildPlan(
        languages=tuple(options.languages),
        num_concepts=options.concepts,
        with_text=not options.without_text,
        seed=options.seed,
    )
    builder = Builder(packages, plan, track=_track, report=console.log)
    if options.check:
        _compare_with_build(builder, options.out)
    elif options.corpus is not None:
        with sole_writer(options.corpus):
            build_corpus(builder, options.corpus)
    else:
        with sole_writer(options.out):
            _build(builder, options.out, with_dev=options.with_dev)
    console.log(f"done in {time.perf_counter() - started:.0f} s")
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.embedded",
        description="Build the embedded data (images, captions, questions, text, benchmark) from\n"
        "public packages. The same packages and options give the same bytes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        default=["en", "eu"],
        metavar="CODE",
        help="languages of the data; each needs a file languages/CODE/data.yaml (default: en eu)",
    )
    parser.add_argument(
        "--out",
        type=given_path,
        default=Path("data/embedded"),
        metavar="DIR",
        help="folder of the shards and manifests (default: %(default)s)",
    )
    parser.add_argument(
        "--packages",
        type=given_path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="folder with the packages; missing ones are downloaded with npm and apt-get "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--concepts",
        type=whole_number(1),
        default=NUM_CONCEPTS,
        metavar="N",
        help="number of concepts; all other counts scale with it (default: %(default)s, all)",
    )
    _add_part_options(parser)
    return parser


def _add_part_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of all random choices (default: %(default)s)"
    )
    parser.add_argument(
        "--without-text",
        action="store_true",
        help="omit the running text, which exists in the languages of LibreOffice's help",
    )
    parser.add_argument(
        "--with-dev",
        action="store_true",
        help="also build the development benchmark, which has its own art style and is not shipped",
    )
    parser.add_argument(
        "--corpus",
        type=given_path,
        metavar="DIR",
        help="build only the large text corpus for training backbones, in this folder; it is not "
        "shipped",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="build into a temporary folder and compare every file with --out byte for byte",
    )


def _build(builder: "Builder", folder: Path, *, with_dev: bool) -> None:
    from data_prep.embedded.drawings import DEV_STYLE, TEST_STYLE
    from data_prep.shards.folder_metadata import write_metadata

    folder.mkdir(parents=True, exist_ok=True)
    builder.build_images(folder)
    builder.build_texts(folder)
    builder.build_benchmark(folder, "test", TEST_STYLE)
    builder.build_benchmark(folder, "withheld", TEST_STYLE, is_withheld=True)
    if with_dev:
        builder.build_benchmark(folder, "dev", DEV_STYLE)
    (folder / ".gitignore").write_text(_IGNORED, encoding="utf-8")
    write_metadata(folder, "embedded")


def _compare_with_build(builder: "Builder", folder: Path) -> None:
    """Compare a folder with a fresh build.

    Raises:
        DataError: If files differ; the message names them.
    """
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        _build(builder, fresh, with_dev=False)
        names = [path for path in sorted(fresh.iterdir()) if not _is_other(path)]
        built = {path.name: sha256_file(path) for path in names}
        found = {
            path.name: sha256_file(path)
            for path in sorted(folder.glob("*"))
            if path.is_file() and not _is_other(path)
        }
    found.setdefault(".gitignore", built[".gitignore"])
    wrong = sorted(file for file in built | found if built.get(file) != found.get(file))
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(built)} files in {folder} differ from the build: "
            f"{', '.join(wrong)}; rebuild into --out, or restore them"
        )
    _open_console().log(f"{len(built)} files in {folder} are identical to the build")


def _is_other(path: Path) -> bool:
    return any(path.match(pattern) for pattern in (*_OTHER_NAMES, *_COLLECTED_NAMES))


def _track(items: Iterable[_T], description: str, total: int) -> Iterable[_T]:
    from rich.progress import track

    return track(items, description, total=total, console=_open_console(), transient=True)


@functools.cache
def _open_console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


if __name__ == "__main__":
    sys.exit(main())

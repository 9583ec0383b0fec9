"""Command line: builds the data that ship in the repository from public packages, bit for bit.

For example `python -m data_prep.embedded --languages en eu --out data/embedded`.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

from core.errors import DataError
from core.io.files import sha256_file
from core.process.command import clear_errors
from data_prep.embedded.build import Builder, BuildPlan
from data_prep.embedded.corpus import build_corpus
from data_prep.embedded.drawings import DEV_STYLE, TEST_STYLE
from data_prep.embedded.packages import DEFAULT_FOLDER, PackageFolder

_DEV_NAMES = ("benchmark-dev-*", "benchmark_dev.*")
_IGNORED = "\n".join(("# Built with --with-dev; not shipped.", *_DEV_NAMES)) + "\n"

_Item = TypeVar("_Item")

_console = Console(stderr=True)


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Build, or check what is built."""
    options = _parser().parse_args(arguments)
    started = time.perf_counter()
    packages = PackageFolder(options.packages, report=_console.log)
    plan = BuildPlan(
        languages=tuple(options.languages),
        num_concepts=options.concepts,
        with_text=not options.without_text,
        seed=options.seed,
    )
    builder = Builder(packages, plan, track=_track, report=_console.log)
    if options.check:
        _check(builder, options.out)
    elif options.corpus is not None:
        build_corpus(builder, options.corpus)
    else:
        _build(builder, options.out, with_dev=options.with_dev)
    _console.log(f"done in {time.perf_counter() - started:.0f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.embedded",
        description="Build the embedded data (images, captions, questions, text, benchmark) from "
        "public packages. The same packages give the same bytes.",
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        default=["en", "eu"],
        metavar="CODE",
        help="languages of the data; each has a languages/CODE/data.yaml (default: en eu)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("data/embedded"),
        metavar="DIR",
        help="where the shards and manifests go (default: %(default)s)",
    )
    parser.add_argument(
        "--packages",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="DIR",
        help="folder with the packages; missing ones are fetched into it with npm and apt-get "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--concepts",
        type=int,
        default=BuildPlan().num_concepts,
        metavar="N",
        help="how many concepts of the table to use; the rest shrinks with them "
        "(default: %(default)s, all)",
    )
    _add_parts(parser)
    return parser


def _add_parts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn (default: 0)")
    parser.add_argument(
        "--without-text",
        action="store_true",
        help="no running text in any language (else in those that LibreOffice's help has)",
    )
    parser.add_argument(
        "--with-dev",
        action="store_true",
        help="also build the development benchmark, in an art style of its own (not shipped)",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        metavar="DIR",
        help="build the large text corpus that backbones are trained on there (not shipped), and "
        "nothing else",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="build into a temporary folder and compare with --out, byte for byte",
    )


def _build(builder: Builder, folder: Path, *, with_dev: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    builder.build_images(folder)
    builder.build_texts(folder)
    builder.build_benchmark(folder, "test", TEST_STYLE)
    if with_dev:
        builder.build_benchmark(folder, "dev", DEV_STYLE)
    (folder / ".gitignore").write_text(_IGNORED, encoding="utf-8")


def _check(builder: Builder, folder: Path) -> None:
    """Raise a DataError that names every file that differs."""
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name)
        _build(builder, fresh, with_dev=False)
        built = {path.name: sha256_file(path) for path in sorted(fresh.iterdir())}
        found = {
            path.name: sha256_file(path)
            for path in sorted(folder.glob("*"))
            if path.is_file() and not any(path.match(pattern) for pattern in _DEV_NAMES)
        }
    found.setdefault(".gitignore", built[".gitignore"])
    wrong = sorted(file for file in built | found if built.get(file) != found.get(file))
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(built)} files in {folder} are not what the packages give: "
            f"{', '.join(wrong)}; build again into --out, or restore them"
        )
    _console.log(f"{len(built)} files in {folder} are what the packages give, byte for byte")


def _track(items: Iterable[_Item], description: str, total: int) -> Iterable[_Item]:
    return rich_track(items, description, total=total, console=_console, transient=True)


if __name__ == "__main__":
    sys.exit(main())

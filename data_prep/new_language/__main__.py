"""Command that writes the folder of a new language, and checks it.

Example: `python -m data_prep.new_language sw`.
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from core.process.options import given_path, language_code

_DESCRIPTION = """\
Write languages/CODE/ for a new language, in which everything that Unicode CLDR and Debian know is
filled in; ask for the rest; check the files; with --build, build the data and train a first cell.
No programming is needed. A folder that exists is never overwritten unless --overwrite is given.
"""
_EPILOG = """\
examples:
  python -m data_prep.new_language sw
      asks for a translation of each English text; Enter leaves one for later, Ctrl-D stops.
      The same command continues where you stopped
  python -m data_prep.new_language sw --yes
      writes the files without questions; fill in each "" with an editor, then
  python -m data_prep.new_language sw --check
      names every problem with file, line and fix
  python -m data_prep.new_language sw --build
      builds data/embedded_sw, measures row lengths, trains one cell on the language alone, and
      prints what it answers (minutes)

docs/guides/new-language.md describes the same steps.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.new_language",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "code",
        type=language_code,
        metavar="CODE",
        help="code of the language: ISO 639-1, else 639-3, as in sw, oc or sr-Latn",
    )
    parser.add_argument("--name", default="", help="English name, where CLDR has none")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--yes", action="store_true", help="ask no questions")
    action.add_argument("--check", action="store_true", help="only check the files")
    action.add_argument(
        "--build",
        action="store_true",
        help="check the files, build the embedded data, and train a first cell",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="rename existing files to NAME.old, and write new ones",
    )
    parser.add_argument(
        "--languages-folder",
        type=given_path,
        metavar="DIR",
        help="folder of all languages (default: languages/ of this repository)",
    )
    parser.add_argument(
        "--packages",
        type=given_path,
        metavar="DIR",
        help="folder with the packages of CLDR; missing ones are downloaded with npm "
        "(default: ~/.cache/irudimen/packages)",
    )
    parser.add_argument(
        "--out",
        type=given_path,
        metavar="DIR",
        help="folder of the data of --build (default: data/embedded_CODE)",
    )
    return parser


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Write, fill in, check or build a language."""
    options = build_parser().parse_args(arguments)
    from core.languages import FOLDER
    from data_prep.new_language import steps

    folder: Path = options.languages_folder or FOLDER
    if options.check:
        return steps.report_problems(options.code, folder)
    if options.build:
        out = options.out or Path("data") / f"embedded_{options.code}"
        return steps.build(options.code, folder, out, options.packages)
    return steps.create(
        options.code,
        folder,
        steps.CreationPlan(
            name=options.name,
            packages=options.packages,
            asks=not options.yes,
            overwrites=options.overwrite,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())

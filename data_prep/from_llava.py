"""Command that turns conversation files of other programs into a source for training.

Example: `python -m data_prep.from_llava my.json --images photos --language eu`.
"""

from core.process.command import catch_user_errors

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import ConfigError
from core.io.files import sole_writer
from core.process.loading import without_collection
from core.process.options import (
    file_name,
    given_path,
    language_code,
    number_between,
    whole_number,
)
from data_prep.foreign.roles import COLUMN_NAMES

if TYPE_CHECKING:
    from rich.console import Console

    from data_prep.foreign.conversion import ConversionPlan, ConversionReport

_DESCRIPTION = """\
Convert conversations about images to shards on which a grid can train, in one language and without
a translation. Every row is kept or counted by the reason why it can't be used.
"""
_EPILOG = """\
formats:
  .json, .jsonl   LLaVA or ShareGPT: {"image": "a.jpg", "conversations": [{"from": "human", ...}]},
                  or `messages` of chat APIs with images in their parts
  .parquet        Hugging Face: `messages` (texts, or parts of text and image) and `images`
  .csv, .tsv      columns image, question, answer, or image, caption
  .tar            WebDataset with such rows in KEY.json
Conversations without an image become a second source, NAME_text_LANGUAGE.

examples:
  python -m data_prep.from_llava my.json --images photos --language eu
  python -m experiments.run --exp smoke --set data.sources.conversations=data/my

  python -m data_prep.from_llava 'qa/*.csv' --images . --language cy --out data/qa \\
      --columns image=file question=galdera answer=erantzuna --licence CC-BY-4.0

output:
  DIR/NAME_LANGUAGE.manifest.json and DIR/NAME_LANGUAGE-000000.tar, ...
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Convert the files and print a summary."""
    options = _build_parser().parse_args(arguments)
    with without_collection():
        from rich.console import Console
        from rich.progress import Progress, TextColumn, TimeElapsedColumn

        from data_prep.foreign.conversion import convert
        from datamodules.shards.manifest import SUFFIX

    plan, console = _make_plan(options), Console(stderr=True)
    started = time.perf_counter()
    with (
        sole_writer(plan.out / f"{plan.name}_{plan.language}{SUFFIX}"),
        Progress(
            TextColumn("converting, {task.completed:,} rows"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as progress,
    ):
        task = progress.add_task("", total=None)
        report = convert(plan, lambda: progress.advance(task))
    _print_report(console, plan, report, time.perf_counter() - started)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.from_llava",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="files, globs, or URLs (hf://, https://, s3://)")
    add(
        "--images",
        type=given_path,
        metavar="DIR",
        help="folder to which the paths of images in the files are relative",
    )
    add(
        "--language",
        type=language_code,
        required=True,
        metavar="CODE",
        help="language of the texts, e.g. eu, en, cy",
    )
    add("--name", type=file_name, help="name of the source (default: that of the first file)")
    add("--out", type=given_path, metavar="DIR", help="folder to write to (default: data/NAME)")
    add(
        "--columns",
        nargs="+",
        default=[],
        metavar="ROLE=COLUMN",
        help=f"columns with unusual names; roles: {', '.join(COLUMN_NAMES)}",
    )
    add("--licence", default="unknown", help="licence of the data (default: %(default)s)")
    add(
        "--limit",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="maximum number of rows (default: all)",
    )
    add(
        "--per-shard",
        type=whole_number(1),
        default=1000,
        metavar="N",
        help="samples per shard (default: %(default)s)",
    )
    add(
        "--max-unusable",
        type=number_between(0.0, 1.0),
        default=0.01,
        metavar="SHARE",
        help="maximum share of unusable rows (default: %(default)s)",
    )
    return parser


def _make_plan(options: argparse.Namespace) -> "ConversionPlan":
    from data_prep.foreign.conversion import ConversionPlan

    if options.images is not None and not options.images.is_dir():
        raise ConfigError(f"--images {options.images} is not a folder; correct it")
    columns = dict[str, str]()
    for text in options.columns:
        role, equals, column = text.partition("=")
        if not equals or not column:
            raise ConfigError(f"--columns {text}: expected ROLE=COLUMN, e.g. image=photo")
        columns[role] = column
    name = options.name or _name_of(options.files[0])
    return ConversionPlan(
        files=tuple(options.files),
        images=options.images,
        columns=columns,
        name=name,
        language=options.language,
        licence=options.licence,
        out=options.out or Path("data") / name,
        per_shard=options.per_shard,
        limit=options.limit,
        max_unusable=options.max_unusable,
    )


def _name_of(file: str) -> str:
    """Return a name for the source from that of a file."""
    stem = Path(file).stem
    name = re.sub(r"[^\w]+", "_", stem).strip("_")
    if not name:
        raise ConfigError(f"'{file}' gives the source no name; set --name")
    return name


def _print_report(
    console: "Console", plan: "ConversionPlan", report: "ConversionReport", seconds: float
) -> None:
    from rich.markup import escape
    from rich.table import Table

    from datamodules.shards.manifest import Modality

    def show(text: str) -> None:
        console.print(escape(text), soft_wrap=True, highlight=False)

    if report.ledger.dropped:
        table = Table("rows left out", "reason", "example")
        for reason, count in report.ledger.dropped.most_common():
            table.add_row(f"{count:,}", escape(reason), escape(report.ledger.examples[reason][0]))
        console.print(table)
    if report.num_recoded:
        show(f"{report.num_recoded:,} images were re-encoded as PNG (rotated, or GIF, BMP ...)")
    if report.num_respelled:
        show(f"{report.num_respelled:,} paths of images are spelled differently in the file system")
    if report.unused:
        names = ", ".join(f"{name} ({count:,})" for name, count in report.unused.most_common())
        show(f"columns that are not used, with the number of rows: {names}")
    for modality, manifest in report.manifests.items():
        count = report.num_samples[modality]
        show(f"{count:,} of {report.ledger.num_in:,} rows, {modality}: {manifest}")
    line = "conversations" if Modality.IMAGE_TEXT in report.manifests else "chat"
    show(
        f"{seconds:.0f} s. Train on them: python -m experiments.run --exp smoke --set "
        f"data.sources.{line}={plan.out}"
    )


if __name__ == "__main__":
    sys.exit(main())

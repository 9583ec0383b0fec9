"""Command that turns existing WebDataset shards into a source.

Example: `python -m data_prep.index 'cc3m/{00000..00331}.tar' --name cc3m_en --language en`.
"""

from core.process.command import catch_user_errors

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.chat.prompt_style import PromptStyle
from core.errors import ConfigError
from core.io.files import sole_writer
from core.process.loading import without_collection
from core.process.options import file_name, given_path, language_code
from datamodules.shards.modality import Modality

if TYPE_CHECKING:
    from rich.console import Console

    from data_prep.index.scan import BuildReport, IndexPlan

_DESCRIPTION = """\
Turn existing WebDataset shards into a source: write one manifest, and one index per shard so that
every sample can be read with a single seek. The shards are read once, sequentially, and never
changed. Shards of webdataset, img2dataset and the *-wds datasets of the Hub are supported.
"""

_EPILOG = """\
location of the text of a sample (--record):
  auto       the first of the rules below that fits the first shard; all samples must follow it
  ""         KEY.json holds {"messages": [{"role": "user", "content": "<image>\\n..."}, ...]}
  .txt       KEY.txt holds a caption (img2dataset, cc3m-wds); any extension: .caption, .cls ...
  caption    KEY.json holds {"caption": "..."}
  text       KEY.json holds {"text": "..."}
  a.b        KEY.json holds {"a": {"b": a caption, or an object with messages}}
With --modality image-text, the text is the caption of the image (KEY.jpg, .jpeg, .png or .webp, one
per sample). With --modality text, it is running text, and images are ignored.

examples:
  python -m data_prep.index 'cc3m/{00000..00331}.tar' --name cc3m_en --language en --jobs 8
  python -m data_prep.index 's3://bucket/wiki/*.tar' --name wiki_eu --language eu --modality text \\
      --record text --licence CC-BY-SA-4.0 --out data/wiki
  python -m data_prep.index 'https://host/pixmo/{000..041}.tar' --name pixmo_eu --language eu \\
      --record conversations.eu --out data/pixmo

output:
  DIR/NAME.manifest.json     the manifest to name in a mixture; lists every shard with its sha256
  DIR/NAME.index/            the indexes; with --lengths-for also the length of every sample, which
                             packing needs; and scanned.json, so that an interrupted or extended
                             build scans only new shards
Remote shards are not copied; training reads them through a cache (docs/reference/data-format.md).

Unusable samples (no text, no image or two, a broken header, an unsafe name, ...) are left out and
counted by reason. A share above --max-unusable is an error.
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Index the shards and print a summary."""
    options = _build_parser().parse_args(arguments)
    with without_collection():
        from rich.console import Console

        from datamodules.shards.manifest import SUFFIX

    started, console = time.perf_counter(), Console(stderr=True)
    plan = _make_plan(options)
    with sole_writer(plan.out / f"{plan.name}{SUFFIX}"):
        report = _build_with_progress(plan, console)
    _print_report(console, report, time.perf_counter() - started)
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.index",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "shards",
        nargs="+",
        metavar="SHARDS",
        help="paths, globs, brace ranges {00..41}, or URLs (s3://, https://, gs://, hf://, file://)",
    )
    add(
        "--name", type=file_name, required=True, help="name of the source, usually DATASET_LANGUAGE"
    )
    add(
        "--language",
        type=language_code,
        required=True,
        metavar="CODE",
        help="language of the text, e.g. eu, en, cy",
    )
    add(
        "--modality",
        choices=[Modality.IMAGE_TEXT.value, Modality.TEXT.value],
        default=Modality.IMAGE_TEXT.value,
        help="content of a sample (default: %(default)s)",
    )
    add("--record", default="auto", help="location of the text, see below (default: %(default)s)")
    add("--licence", default="unknown", help="licence of the data (default: %(default)s)")
    add(
        "--provenance",
        default="",
        metavar="TEXT",
        help="origin of the data, for the manifest (default: empty)",
    )
    add(
        "--out",
        type=given_path,
        metavar="DIR",
        help="folder of the manifest (default: folder of the first shard, or . for URLs)",
    )
    add(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="number of shards scanned in parallel (default: %(default)s)",
    )
    add(
        "--max-unusable",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="maximum share of unusable samples (default: %(default)s)",
    )
    lengths = parser.add_argument_group(
        "sample lengths",
        "Measure the length of every sample in a chat format. By default, the first training on "
        "the\nsource measures them, which reads the source once.",
    )
    add = lengths.add_argument
    add(
        "--lengths-for",
        default="",
        metavar="TOKENIZER",
        help="measure with this tokenizer, a folder or a Hub name (default: do not measure)",
    )
    add("--template", default="llama-3.1", help="name of the chat template (default: %(default)s)")
    add(
        "--image-tokens",
        type=int,
        default=576,
        metavar="N",
        help="visual tokens per image (default: %(default)s, CLIP ViT-L/14 at 336 pixels)",
    )
    add(
        "--prompt-styles",
        nargs="+",
        choices=[style.value for style in PromptStyle],
        default=[PromptStyle.CHAT],
        help="prompt styles to measure (default: chat)",
    )
    return parser


def _make_plan(options: argparse.Namespace) -> "IndexPlan":
    with without_collection():
        from data_prep.index.inputs import expand_shards, local_path
        from data_prep.index.lengths import LengthsPlan
        from data_prep.index.scan import IndexPlan
        from datamodules.storage.remote import RetryConfig

    if options.jobs < 1:
        raise ConfigError(f"--jobs {options.jobs}, expected at least 1")
    if not 0.0 <= options.max_unusable <= 1.0:
        raise ConfigError(f"--max-unusable {options.max_unusable}, expected a share from 0 to 1")
    lengths = LengthsPlan(
        tokenizer=options.lengths_for,
        template=options.template,
        num_image_tokens=options.image_tokens,
        styles=tuple(PromptStyle(style) for style in options.prompt_styles),
    )
    retry = RetryConfig()
    shards = expand_shards(options.shards, retry)
    first = local_path(shards[0])
    return IndexPlan(
        shards=shards,
        name=options.name,
        language=options.language,
        modality=Modality(options.modality),
        record=options.record,
        out=options.out or (first.parent if first is not None else Path()),
        licence=options.licence,
        provenance=options.provenance,
        jobs=options.jobs,
        max_unusable=options.max_unusable,
        retry=retry,
        lengths=lengths if options.lengths_for else None,
    )


def _build_with_progress(plan: "IndexPlan", console: "Console") -> "BuildReport":
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from data_prep.index.scan import build_source

    progress = Progress(
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("shards, {task.fields[usable]:,} samples, {task.fields[unusable]:,} unusable"),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,  # a refresh thread would not survive the fork of the workers
    )
    with progress:
        task = progress.add_task("", total=len(plan.shards), usable=0, unusable=0)

        def on_shard(num_samples: int, num_unusable: int) -> None:
            fields = progress.tasks[0].fields
            progress.update(
                task,
                advance=1,
                usable=fields["usable"] + num_samples,
                unusable=fields["unusable"] + num_unusable,
            )
            progress.refresh()

        return build_source(plan, on_shard)


def _print_report(console: "Console", report: "BuildReport", seconds: float) -> None:
    from rich.table import Table

    from datamodules.storage.remote import redact_url

    if report.unusable:
        table = Table("unusable samples", "reason", "example")
        for reason, count in report.unusable.most_common():
            table.add_row(f"{count:,}", reason, report.examples[reason])
        console.print(table)
    for shard in report.empty_shards:
        console.print(f"left out, no usable samples: {redact_url(shard)}", soft_wrap=True)
    if report.ignored:
        members = ", ".join(f"{kind} ({count:,})" for kind, count in report.ignored.most_common())
        console.print(f"ignored members: {members}", soft_wrap=True)
    if report.num_reused:
        console.print(f"{report.num_reused} shards were scanned by an earlier build")
    console.print(
        f"{report.num_samples:,} samples (record '{report.record}') in "
        f"{report.num_bytes / 1e9:.3f} GB, indexes {report.index_bytes / 1e6:.1f} MB, "
        f"{seconds:.0f} s: {report.manifest}",
        soft_wrap=True,
        highlight=False,
    )


if __name__ == "__main__":
    sys.exit(main())

"""Command that writes benchmarks as tasks of other programs: `python -m evaluation.export_tasks`.

Every model is then scored by their code, on the same questions with the same prompts.
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence

from core.process.loading import without_collection
from core.process.options import given_path, whole_number
from evaluation.export_tasks.harness import Harness

_EPILOG = """\
metrics of lmms-eval: vqa as vqav2_val; mc and capqa: exact match with the letter, or with the word
for yes or no; da: as A-OKVQA; open: ANLS. lm-eval: exact match with the most frequent answer, and
bits per byte of text sources. Questions without references (wild) need a judge and are left out.

examples:
  python -m evaluation.export_tasks --to lmms-eval --out tasks \\
      --manifest data/embedded/benchmark_test.manifest.json --style bare --max-new-tokens 16
  python -m evaluation.export_tasks --to lm-eval --out texts \\
      --manifest data/embedded/text_eu.manifest.json
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pack and print how to run it."""
    options = _build_parser().parse_args(arguments)
    with without_collection():
        from rich.console import Console
        from rich.markup import escape

        from evaluation.asking import AskingConfig
        from evaluation.benchmarks.prompting import INSTRUCTED_STYLE
        from evaluation.benchmarks.reply_limits import ReplyLimits
        from evaluation.export_tasks.packs import PackPlan, run_command, write_pack

    console = Console(stderr=True)

    def show(text: str) -> None:
        console.print(escape(text), soft_wrap=True, highlight=False)

    limits = AskingConfig().limits
    if options.max_new_tokens is not None:
        limits = ReplyLimits(default=options.max_new_tokens, by_kind={})
    plan = PackPlan(
        harness=Harness(options.to),
        manifests=tuple(options.manifest),
        out=options.out,
        languages=tuple(options.languages or ()),
        style=INSTRUCTED_STYLE if options.style is None else options.style,
        limits=limits,
    )
    pack = write_pack(plan)
    for task in pack.tasks:
        show(f"{task.num_items:>8,} items  {task.name}")
    for reason in pack.left_out:
        show(f"left out: {reason}")
    show(f"Run it: {run_command(plan, pack)}")
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.export_tasks",
        description="Write benchmarks and text sources as tasks of lmms-eval or "
        "lm-evaluation-harness.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--to", choices=[one.value for one in Harness], required=True, help="program")
    add(
        "--manifest",
        nargs="+",
        type=given_path,
        required=True,
        help="manifests of benchmarks, or for lm-eval also of text sources",
    )
    add("--out", type=given_path, required=True, metavar="DIR", help="new folder of the tasks")
    add("--languages", nargs="+", metavar="CODE", help="languages (default: all)")
    add(
        "--style",
        help="style of the prompts in languages/*/prompts.yaml (default: instructed)",
    )
    add(
        "--max-new-tokens",
        type=whole_number(1),
        metavar="N",
        help="maximum number of tokens of a reply (default: that of the evaluation)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

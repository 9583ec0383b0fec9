"""Export a trained cell in Hugging Face format, or in our own.

python -m experiments.export --run CELL --to hf FOLDER
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError, unknown_name
from core.io.files import sole_writer
from experiments.cli import add_grid_options, request_of

if TYPE_CHECKING:
    from serving.hugging_face_export import ExportResult

_OWN = "irudimen"
_FORMATS = ("hf", _OWN)
_DTYPES = ("bfloat16", "float16", "float32")
_EPILOG = """examples:
  python -m experiments.export --run general_share40_s0 --profile paper --to hf exports/share40
  python -m experiments.export --run share40_txt --dtype bfloat16 --to hf exports/share40
  python -m experiments.export --exp architecture_ablation --run resampler --to irudimen exports/r

Pass --exp, --profile, --set and --seeds as in the run that trained the cell.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description="Write a trained cell as a stock model of transformers (LLaVA, FastVLM), and\n"
        "verify that transformers computes the same logits. Architectures without a stock class\n"
        "are written in our own format, for experiments.chat --model.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_grid_options(parser, experiment="mix_ablation", omit=("--only",))
    add = parser.add_argument_group("export options").add_argument
    add("--run", required=True, metavar="CELL", help="cell id or a unique part of it")
    add(
        "--to",
        required=True,
        nargs=2,
        metavar=("FORMAT", "FOLDER"),
        help="format ('hf' or 'irudimen') and a new folder",
    )
    add(
        "--dtype",
        choices=_DTYPES,
        default="float32",
        help="data type of the weights (default: float32)",
    )
    add(
        "--max-shard",
        default="5GB",
        metavar="SIZE",
        help="maximum size of a weights file of 'hf' (default: 5GB)",
    )
    return parser


def _print_result(console: Console, result: "ExportResult") -> None:
    for warning in result.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True, highlight=False)
    console.print(
        f"Exported to {escape(str(result.folder))}. transformers loads it without missing keys; "
        f"its logits differ from our model's by at most {result.report.logits:.1e} at "
        f"{result.report.num_positions} positions.",
        soft_wrap=True,
        highlight=False,
    )


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = build_parser().parse_args(arguments)
    export_format, folder = args.to[0], Path(args.to[1])
    if export_format not in _FORMATS:
        raise ConfigError(unknown_name("format of --to", export_format, _FORMATS))
    if folder.exists():  # before the grid is loaded
        raise ConfigError(f"{folder} exists; choose a new folder or remove it")
    from experiments.run_steps.planning import make_plan  # loads torch
    from serving.cell import find_cells
    from serving.hugging_face_export import EXPORT_DTYPES, export_cell
    from serving.own_format import export_own

    request = request_of(args)
    with sole_writer(folder):
        (cell,) = find_cells(make_plan(request), [args.run], root=request.root)
        if export_format == _OWN:
            export_own(cell, folder, dtype=EXPORT_DTYPES[args.dtype])
            Console(stderr=True).print(
                f"Exported to {escape(str(folder))}; weights and features equal those of the cell. "
                "Chat: python -m experiments.chat --model FOLDER",
                soft_wrap=True,
                highlight=False,
            )
            return 0
        result = export_cell(cell, folder, dtype=args.dtype, max_shard=args.max_shard)
    _print_result(Console(stderr=True), result)
    return 0


if __name__ == "__main__":
    sys.exit(main())

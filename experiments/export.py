"""Export a trained cell in Hugging Face format, its language model alone, or in our own format.

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
    from serving.cell import TrainedCell
    from serving.hugging_face_export import ExportResult

_OWN = "irudimen"
_LANGUAGE_MODEL, _GGUF = "hf-lm", "gguf"
_ADAPTER = "peft"
_FORMATS = ("hf", _LANGUAGE_MODEL, _ADAPTER, _OWN)
_DTYPES = ("bfloat16", "float16", "float32")
_EPILOG = """examples:
  python -m experiments.export --run general_share40_s0 --profile paper --to hf exports/share40
  python -m experiments.export --run share40_txt --dtype bfloat16 --to hf exports/share40
  python -m experiments.export --run share40_txt --to hf-lm exports/share40-lm   # for lm_eval
  python -m experiments.export --run share40_txt --to hf exports/share40 --push me/share40 --dry-run
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
        help="format and a new folder: 'hf' (the whole model), 'hf-lm' (its language model alone), "
        "'peft' (adapters of a ready-made model alone), or 'irudimen'",
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
        help="maximum size of a weights file of 'hf' and 'hf-lm' (default: 5GB)",
    )
    add(
        "--push",
        default="",
        metavar="OWNER/NAME",
        help="upload the folder to this repository of the hub (HF_ENDPOINT, hf auth login)",
    )
    add("--public", action="store_true", help="with --push: make a new repository public")
    add("--dry-run", action="store_true", help="with --push: list what would be sent, send nothing")
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
    if export_format == _GGUF:
        raise ConfigError(
            "--to gguf is not supported: export the language model with --to hf-lm and convert it "
            "with llama.cpp (docs/guides/export-and-chat.md#llama-cpp)"
        )
    if export_format not in _FORMATS:
        raise ConfigError(unknown_name("format of --to", export_format, _FORMATS))
    if folder.exists():  # before the grid is loaded
        raise ConfigError(f"{folder} exists; choose a new folder or remove it")
    if (args.dry_run or args.public) and not args.push:
        raise ConfigError("--dry-run and --public concern --push OWNER/NAME; add it")
    from experiments.run_steps.planning import make_plan  # loads torch
    from serving.cell import find_cells

    request, console = request_of(args), Console(stderr=True)
    with sole_writer(folder):
        (cell,) = find_cells(make_plan(request), [args.run], root=request.root)
        _export(console, cell, export_format, folder, args)
        if args.push:
            _push(console, folder, args)
    return 0


def _export(
    console: Console, cell: "TrainedCell", name: str, folder: Path, args: argparse.Namespace
) -> None:
    from serving.hugging_face_export import EXPORT_DTYPES, export_cell
    from serving.language_model_export import export_language_model
    from serving.own_format import export_own

    if name == _OWN:
        export_own(cell, folder, dtype=EXPORT_DTYPES[args.dtype])
        _print(
            console,
            f"Exported to {folder}; weights and features equal those of the cell. "
            "Chat: python -m experiments.chat --model FOLDER",
        )
        return
    if name == _LANGUAGE_MODEL:
        report = export_language_model(
            cell, folder, dtype=EXPORT_DTYPES[args.dtype], max_shard=args.max_shard
        )
        _print(
            console,
            f"Exported to {folder}. AutoModelForCausalLM loads it; its logits differ from our "
            f"model's by at most {report.logits:.1e} at {report.num_positions} positions.",
        )
        return
    result = export_cell(
        cell,
        folder,
        dtype=args.dtype,
        max_shard=args.max_shard,
        is_adapter=name == _ADAPTER,
    )
    _print_result(console, result)


def _push(console: Console, folder: Path, args: argparse.Namespace) -> None:
    from serving.hub_upload import plan_upload, upload

    if not args.dry_run:
        _print(console, f"Uploaded: {upload(folder, args.push, is_private=not args.public)}")
        return
    plan = plan_upload(folder, args.push)
    kind = "public" if args.public else "private"
    for name, size in plan.files:
        _print(console, f"{size:>14,} bytes  {name}")
    _print(
        console,
        f"--push without --dry-run sends {len(plan.files)} files ({plan.num_bytes / 1e6:,.1f} MB) "
        f"to {plan.endpoint}/{plan.repository} ({kind} if it is new)",
    )


def _print(console: Console, text: str) -> None:
    console.print(escape(text), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    sys.exit(main())

"""A trained cell as a folder that others load: `python -m experiments.export --run CELL --to hf`.

Stock `LlavaForConditionalGeneration`, checked against our model before it gets its name.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from rich.console import Console
from rich.markup import escape
from transformers import CLIPImageProcessor, LlavaProcessor

from core.errors import ConfigError
from core.io.files import atomic_write_text
from core.process.command import clear_errors
from models.export.llava import to_hugging_face
from models.export.processor import chat_template, generation_config, image_processor_config
from models.freezing import cast_all
from pipeline.stages.builders import VlmParts
from serving.cell import TrainedCell, add_grid_options, find_cells, load_cell
from serving.export_check import ParityReport, check_export
from serving.model_card import model_card

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_EPILOG = """examples:
  python -m experiments.export --run general_share40_s0 --profile paper --to hf exports/share40
  python -m experiments.export --run share40_txt --dtype bfloat16 --to hf exports/share40
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.export",
        description="Write a trained cell as a stock Hugging Face LLaVA, and check it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", required=True, metavar="CELL", help="id of a cell, or a part that only it has")
    add("--to", required=True, nargs=2, metavar=("FORMAT", "FOLDER"), help="hf, and a new folder")
    add("--dtype", choices=sorted(_DTYPES), default="float32", help="of the weights")
    add("--max-shard", default="5GB", metavar="SIZE", help="largest weights file (default: 5GB)")
    add_grid_options(parser)
    return parser


def export(options: argparse.Namespace, console: Console) -> Path:
    """Write, check, rename; nothing stays behind where something is wrong.

    Raises:
        ConfigError: an unknown format or cell, a folder that exists, a part LLaVA can't hold.
        CheckpointError: an unfinished cell, or an export that isn't equal to our model.
    """
    kind, target = options.to[0], Path(options.to[1])
    if kind != "hf":
        raise ConfigError(f"--to {kind} is not known; write --to hf FOLDER")
    if target.exists():
        raise ConfigError(f"{target} exists; name a new folder or remove it")
    (cell,) = find_cells(options, [options.run])
    parts = load_cell(cell, torch.device("cpu"))
    part_folder = target.with_name(f".{target.name}.part")
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir(parents=True)
    try:
        warnings = write_folder(
            part_folder, cell, parts, dtype=_DTYPES[options.dtype], max_shard=options.max_shard
        )
        report = check_export(part_folder, parts)
        card = model_card(cell, report, dtype=options.dtype, warnings=warnings)
        atomic_write_text(part_folder / "README.md", card)
        part_folder.rename(target)
    finally:
        shutil.rmtree(part_folder, ignore_errors=True)
    _say(console, target, report, warnings)
    return target


def write_folder(
    folder: Path, cell: TrainedCell, parts: VlmParts, *, dtype: torch.dtype, max_shard: str
) -> tuple[str, ...]:
    """All files but the card; returns warnings. `parts` is left with the rounded numbers."""
    if dtype is not torch.float32:
        # So that the check compares like with like: the written numbers, in fp32 on both sides.
        cast_all(parts.model, dtype)
        cast_all(parts.model, torch.float32)
    stock = to_hugging_face(parts.model, parts.chat, dtype=dtype)
    save_torch_state_dict(stock.state, folder, max_shard_size=max_shard)
    _write_json(folder / "config.json", stock.config)
    limit = cell.evaluate_spec.settings.max_new_tokens
    settings = generation_config(parts.chat, max_new_tokens=limit)
    _write_json(folder / "generation_config.json", settings)
    write_processor(folder, parts)
    return stock.warnings


def write_processor(folder: Path, parts: VlmParts) -> None:
    """Tokenizer, image processor and chat template, in files of their usual names."""
    if parts.model.tower is None:
        raise ValueError("no tower")
    settings = image_processor_config(parts.model.tower.transform)
    template = chat_template(parts.chat.template)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor.from_dict(settings),
        tokenizer=parts.chat.tokenizer,
        patch_size=parts.model.tower.clip_vision_config()["patch_size"],
        vision_feature_select_strategy="default",
        chat_template=template,
        image_token=parts.chat.template.image_token,
        num_additional_image_tokens=1,  # the class token, which "default" takes off again
    )
    processor.save_pretrained(folder)
    # transformers 5 keeps these settings inside processor_config.json; others look for this file.
    both = {**settings, "processor_class": "LlavaProcessor"}
    _write_json(folder / "preprocessor_config.json", both)


def _write_json(path: Path, content: object) -> None:
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _say(console: Console, target: Path, report: ParityReport, warnings: Sequence[str]) -> None:
    for warning in warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}", soft_wrap=True, highlight=False)
    console.print(
        f"export: {escape(str(target))}: loads with no missing key; logits differ from ours by at "
        f"most {report.logits:.1e} at {report.num_positions} positions",
        soft_wrap=True,
        highlight=False,
    )


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Export."""
    console = Console(stderr=True)
    export(build_parser().parse_args(arguments), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

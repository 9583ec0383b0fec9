"""Export of a trained cell as a stock model of transformers, with a parity check."""

import dataclasses
import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from transformers import CLIPImageProcessor, LlavaProcessor

from core.config import dump_config
from core.errors import CheckpointError, ConfigError
from core.io.files import atomic_write_text, use_umask
from evaluation.asking import ASKING_FILE, AskingConfig
from models.export.conversion import to_hugging_face
from models.export.portable import make_portable
from models.export.processor import chat_template, generation_config, image_processor_config
from models.export.stock import HfModel
from models.freezing import cast_all
from models.ready_made.loading import ReadyMadeSource
from pipeline.assemble import VlmParts
from pipeline.assemble_ready_made import ReadyMadeParts
from serving.adapter_export import check_adapter, check_adapter_export, write_adapter
from serving.cell import TrainedCell, load_cell
from serving.export_check import ParityReport, check_export
from serving.model_card import model_card
from serving.ready_made_export import check_ready_made, write_ready_made

EXPORT_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export."""

    folder: Path
    report: ParityReport
    warnings: tuple[str, ...]


def export_cell(
    cell: TrainedCell, folder: Path, *, dtype: str, max_shard: str, is_adapter: bool = False
) -> ExportResult:
    """Write a cell in Hugging Face format, compare it with our model, and rename it into place.

    Args:
        cell: A trained cell.
        folder: New folder of the export; it is not created if a check fails.
        dtype: Name of the data type of the weights, one of `EXPORT_DTYPES`.
        max_shard: Maximum size of a weights file, e.g. "5GB".
        is_adapter: Write what was trained instead of the whole model (`serving.adapter_export`).

    Raises:
        ConfigError: If the folder exists, no class of transformers has a part of the model, or the
            cell has no adapters that can be exported alone.
        CheckpointError: If the cell is not finished, or the export differs from our model.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose a new folder or remove it")
    source, tuning = cell.evaluation.model.ready_made, cell.evaluation.tuning
    if is_adapter:
        check_adapter_export(tuning, is_ready_made=source is not None)
    parts = load_cell(cell, torch.device("cpu"), is_merged=not is_adapter)
    part_folder = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir(parents=True)
    try:
        asking = AskingConfig.of(cell.evaluation.settings)
        stock: HfModel | None = None
        if is_adapter and source is not None and isinstance(parts, ReadyMadeParts):
            report = _write_checked_adapter(part_folder, parts, cell, source, dtype=dtype)
            _write_asking(part_folder, asking)
        elif isinstance(parts, ReadyMadeParts):
            write_ready_made(part_folder, parts, dtype=EXPORT_DTYPES[dtype], max_shard=max_shard)
            _write_asking(part_folder, asking)
            report = check_ready_made(part_folder, parts)
        else:
            stock = write_model(
                part_folder, parts, asking, dtype=EXPORT_DTYPES[dtype], max_shard=max_shard
            )
            report = check_export(part_folder, parts)
        card = model_card(cell, report, stock, dtype=dtype, is_adapter=is_adapter)
        atomic_write_text(part_folder / "README.md", card)
        use_umask(part_folder)
        part_folder.rename(folder)
    finally:
        shutil.rmtree(part_folder, ignore_errors=True)
    return ExportResult(
        folder=folder, report=report, warnings=() if stock is None else stock.warnings
    )


def write_model(
    folder: Path, parts: VlmParts, asking: AskingConfig, *, dtype: torch.dtype, max_shard: str
) -> HfModel:
    """Write every file except the model card and return what was written.

    The weights of `parts` are rounded to `dtype` in place.
    """
    if dtype is not torch.float32:
        # Round first, so that the check compares the written values in fp32 on both sides.
        cast_all(parts.model, dtype)
        cast_all(parts.model, torch.float32)
    stock = to_hugging_face(parts.model, parts.chat, dtype=dtype)
    try:
        save_torch_state_dict(stock.state, folder, max_shard_size=max_shard)
    except SafetensorError as error:  # its only error for a full disk
        raise CheckpointError(f"{folder}: the weights can't be written ({error})") from error
    _write_json(folder / "config.json", stock.config)
    settings = generation_config(parts.chat, max_new_tokens=asking.max_new_tokens)
    _write_json(folder / "generation_config.json", settings)
    _write_asking(folder, asking)
    write_processor(folder, parts, stock)
    return stock


def _write_checked_adapter(
    folder: Path, parts: ReadyMadeParts, cell: TrainedCell, source: ReadyMadeSource, *, dtype: str
) -> ParityReport:
    tuning = cell.evaluation.tuning
    write_adapter(folder, parts, source=source, tuning=tuning, dtype=EXPORT_DTYPES[dtype])
    return check_adapter(folder, parts, source)


def _write_asking(folder: Path, asking: AskingConfig) -> None:
    """Write how the evaluation of the cell asked its questions."""
    atomic_write_text(folder / ASKING_FILE, dump_config(asking))


def write_processor(folder: Path, parts: VlmParts, stock: HfModel) -> None:
    """Write the tokenizer, the image processor and the chat template under their usual names."""
    if parts.model.tower is None:
        raise ValueError("the model was built without its tower")
    settings = image_processor_config(parts.model.tower.transform)
    template = chat_template(parts.chat.template)
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor.from_dict(settings),
        tokenizer=parts.chat.tokenizer,
        chat_template=template,
        image_token=parts.chat.template.image_token,
        **stock.processor,
    )
    processor.save_pretrained(folder)
    # transformers 5 stores these settings in processor_config.json; other tools read this file.
    both = {**settings, "processor_class": "LlavaProcessor"}
    _write_json(folder / "preprocessor_config.json", both)
    make_portable(folder)


def _write_json(path: Path, content: object) -> None:
    atomic_write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

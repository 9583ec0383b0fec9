"""Export of the language model of a trained cell alone, for programs that evaluate text."""

import json
import shutil
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from core.errors import CheckpointError, ConfigError
from core.io.files import atomic_write_text, use_umask
from evaluation.asking import AskingConfig
from models.export.portable import check_portable, make_portable
from models.export.processor import chat_template, generation_config
from models.export.stock import text_config, text_weights, written
from models.freezing import cast_all
from pipeline.assemble import VlmParts
from serving.cell import TrainedCell, load_cell
from serving.export_check import LOGIT_TOLERANCE, ParityReport

_TEXTS = ("Zer da hau? Txakur bat da.", "What is this? A dog.", "Dé hí, beth yw hwn?")


def export_language_model(
    cell: TrainedCell, folder: Path, *, dtype: torch.dtype, max_shard: str
) -> ParityReport:
    """Write the language model, load it with transformers, compare it, and rename it into place.

    Args:
        cell: A trained cell.
        folder: New folder of the export; it is not created if the check fails.
        dtype: Type of the weights in the files.
        max_shard: Maximum size of a weights file, e.g. "5GB".

    Raises:
        ConfigError: If the folder exists, or the cell is a ready-made model.
        CheckpointError: If the cell is not finished, or the export differs from our model.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists; choose a new folder or remove it")
    parts = load_cell(cell, torch.device("cpu"))
    if not isinstance(parts, VlmParts):
        raise ConfigError(
            f"cell '{cell.cell_id}' is a ready-made model, whose class also takes text; use --to hf"
        )
    part_folder = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part_folder, ignore_errors=True)
    part_folder.mkdir(parents=True)
    try:
        asking = AskingConfig.of(cell.evaluation.settings)
        write_language_model(part_folder, parts, asking, dtype=dtype, max_shard=max_shard)
        report = check_language_model(part_folder, parts)
        use_umask(part_folder)
        part_folder.rename(folder)
    finally:
        shutil.rmtree(part_folder, ignore_errors=True)
    return report


def write_language_model(
    folder: Path, parts: VlmParts, asking: AskingConfig, *, dtype: torch.dtype, max_shard: str
) -> None:
    """Write weights, settings, tokenizer and chat template.

    The weights of `parts` are rounded to `dtype` in place.

    Raises:
        CheckpointError: If the weights can't be written.
    """
    model, chat = parts.model.language_model, parts.chat
    cast_all(model, dtype)  # the check compares the values that are written
    cast_all(model, torch.float32)
    try:
        save_torch_state_dict(written(text_weights(model), dtype), folder, max_shard_size=max_shard)
    except SafetensorError as error:  # its only error for a full disk
        raise CheckpointError(f"{folder}: the weights can't be written ({error})") from error
    name = str(dtype).removeprefix("torch.")
    config = text_config(model, chat) | {"dtype": name, "torch_dtype": name}
    settings = generation_config(chat, max_new_tokens=asking.max_new_tokens)
    for file, content in (("config.json", config), ("generation_config.json", settings)):
        atomic_write_text(folder / file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    chat.tokenizer.save_pretrained(folder)
    atomic_write_text(folder / "chat_template.jinja", chat_template(chat.template))
    make_portable(folder)


@torch.no_grad()
def check_language_model(folder: Path, parts: VlmParts) -> ParityReport:
    """Load the folder with transformers and compare token ids and logits.

    Raises:
        CheckpointError: If a weight is missing or unexpected, or the outputs differ.
    """
    check_portable(folder)
    theirs, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    if problems := {key: sorted(map(str, names)) for key, names in info.items() if names}:
        raise CheckpointError(f"transformers can't load the export completely: {problems}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    error, largest, num_positions = 0.0, 0.0, 0
    for text in _TEXTS:
        ids = parts.chat.tokenizer.encode(text, add_special_tokens=False)
        if tokenizer.encode(text, add_special_tokens=False) != ids:
            raise CheckpointError(f"the exported tokenizer gives other token ids of {text!r}")
        input_ids_BT = torch.tensor([ids])
        ours_TV = parts.model.language_model.eval()(input_ids_BT, use_cache=False).logits[0]
        theirs_TV = theirs.eval()(input_ids_BT, use_cache=False).logits[0]
        error = max(error, float((ours_TV - theirs_TV).abs().max()))
        largest = max(largest, float(ours_TV.abs().max()))
        num_positions += len(ids)
    if not error <= LOGIT_TOLERANCE * max(1.0, largest):
        raise CheckpointError(
            f"logits of transformers differ by {error:.2e} (largest logit {largest:.1f}); the "
            f"tolerance is {LOGIT_TOLERANCE}"
        )
    return ParityReport(
        logits=error, largest_logit=largest, pixels=0.0, num_positions=num_positions
    )

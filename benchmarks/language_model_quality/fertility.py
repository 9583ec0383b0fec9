"""Measure how many tokens the shared tokenizer needs per word, character and byte of a language.

The texts are those that `data_prep.embedded --corpus` keeps apart from the training of the
tokenizer. Text without any known sequence needs one token per byte.

    python -m benchmarks.language_model_quality.fertility --corpus data/corpus
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from core.chat.format import load_tokenizer
from datamodules.shards.manifest import SUFFIX
from datamodules.shards.source import Source

NAME = "fertility_"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fertility:
    """Tokens of a text per unit."""

    per_word: float
    """Per word between spaces; without meaning in scripts that do not separate words."""
    per_character: float
    per_byte: float
    """1 if nothing but bytes is known."""


def fertility(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Fertility:
    """Count the tokens of texts relative to their words, characters and bytes."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    num_tokens = sum(map(len, encoded))
    return Fertility(
        per_word=num_tokens / sum(len(text.split()) for text in texts),
        per_character=num_tokens / sum(map(len, texts)),
        per_byte=num_tokens / sum(len(text.encode()) for text in texts),
    )


def read_texts(manifest: Path) -> list[str]:
    """Return the texts of a source."""
    source = Source(manifest)
    return [turn.content for i in range(len(source)) for turn in source.read(i).turns]


def main() -> None:
    """Print one row per language."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--tokenizer", type=Path, default=Path("data/embedded/models/lm_general"), metavar="DIR"
    )
    parser.add_argument("--corpus", type=Path, default=Path("data/corpus"), metavar="DIR")
    options = parser.parse_args()
    tokenizer = load_tokenizer(options.tokenizer)
    print(f"{'':9s}{'per word':>9s}{'per character':>15s}{'per byte':>10s}")
    for path in sorted(options.corpus.glob(f"{NAME}*{SUFFIX}")):
        code = path.name.removeprefix(NAME).removesuffix(SUFFIX)
        found = fertility(tokenizer, read_texts(path))
        print(f"{code:9s}{found.per_word:9.2f}{found.per_character:15.2f}{found.per_byte:10.2f}")


if __name__ == "__main__":
    main()

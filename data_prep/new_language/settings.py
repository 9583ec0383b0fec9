"""Settings of a grid in a new language, and what its tokenizer needs."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.chat.characters import split_words
from core.chat.format import load_tokenizer
from core.yaml_text import read_yaml
from data_prep.new_language.facts import LanguageFacts

GRID_PROFILE = "embedded"
"""Profile of the experiments in a new language."""
_PROFILE = Path(__file__).parents[2] / "configs" / f"{GRID_PROFILE}.yaml"
_END_OF_TURN = 1


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Fertility:
    """Tokens that the shipped tokenizer needs for the names of objects."""

    tokens_per_word: float
    english_tokens_per_word: float
    longest_answer_tokens: int
    """Tokens of the longest name with the end of the turn."""
    longest_answer: str

    def describe(self) -> str:
        """Return the measurement in one line."""
        return (
            f"the shipped tokenizer needs {self.tokens_per_word:.1f} tokens per word of the "
            f"objects' names (English {self.english_tokens_per_word:.1f}); the longest answer, "
            f"'{self.longest_answer}', takes {self.longest_answer_tokens}"
        )


def measure_fertility(facts: LanguageFacts, names: Mapping[str, str]) -> Fertility | None:
    """Measure the shipped tokenizer on the names of objects; None if there are none.

    Args:
        facts: The language, with the English names.
        names: Code points -> name in the language.
    """
    if not names:
        return None
    profile = read_yaml(_PROFILE)
    tokenizer = load_tokenizer(_backbone(profile)["path"], is_local=True)

    def count(texts: Iterable[str]) -> list[int]:
        return [len(tokenizer.encode(text, add_special_tokens=False)) for text in texts]

    def per_word(texts: Iterable[str]) -> float:
        own = list(texts)
        return sum(count(own)) / sum(len(split_words(text)) for text in own)

    lengths = dict(zip(names.values(), count(names.values()), strict=True))
    longest = max(lengths, key=lambda name: lengths[name])
    return Fertility(
        tokens_per_word=per_word(names.values()),
        english_tokens_per_word=per_word(facts.english_names[key] for key in names),
        longest_answer_tokens=lengths[longest] + _END_OF_TURN,
        longest_answer=longest,
    )


def grid_settings(code: str, folder: Path, *, has_text: bool) -> list[str]:
    """Return the overrides of every experiment in the language.

    Rows and replies become as long as the data need by themselves (`data.fit_lengths`).

    Args:
        code: Language code.
        folder: Folder of the embedded data in the language.
        has_text: Whether there is running text.
    """
    settings = [f"languages.target={code}", f"data.folder={folder}"]
    if has_text:
        return settings
    chat, text = (read_yaml(_PROFILE)["instruct"]["text_only"][key] for key in ("chat", "text"))
    both = chat["samples_per_step"] + text["samples_per_step"]
    return [
        *settings,
        "instruct.text_only.text.samples_per_step=0",
        f"instruct.text_only.chat.samples_per_step={both:g}",
    ]


def _backbone(profile: Any) -> dict[str, str]:
    found: dict[str, str] = profile["backbones"][profile["cell"]["backbone"]]
    return found

"""Settings of a grid in a new language, from what its tokenizer and data need."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.chat.characters import split_words
from core.chat.format import ChatFormat, PromptStyle, load_tokenizer
from core.chat.templates import TEMPLATES
from core.yaml_text import read_yaml
from data_prep.embedded.wordings import Language
from data_prep.new_language.facts import LanguageFacts
from datamodules.batches.lengths import measure_lengths
from datamodules.shards.manifest import SUFFIX
from datamodules.shards.source import Source

GRID_PROFILE = "embedded"
"""Profile of the experiments in a new language."""
LENGTHS_FOLDER = Path("cache") / "lengths"
"""Folder under the output folder of runs in which trainings look for the lengths of samples."""
_PROFILE = Path(__file__).parents[2] / "configs" / f"{GRID_PROFILE}.yaml"
_END_OF_TURN = 1
_BASE = "en"


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


def count_answer_tokens(language: Language, names: Iterable[str]) -> int:
    """Return the tokens of the longest answer in a language with the end of the turn.

    Args:
        language: The wordings of the language.
        names: Names of the objects.
    """
    tokenizer = load_tokenizer(_backbone(read_yaml(_PROFILE))["path"], is_local=True)
    words = [language.yes, language.no, *language.numbers, *names]
    words += [answer for answer, _ in language.categories.values()]
    encoded = (tokenizer.encode(word, add_special_tokens=False) for word in words)
    return max(map(len, encoded)) + _END_OF_TURN


def retention_setting(code: str, *, has_text: bool) -> str:
    """Return the text-only tasks of a grid; the experiment `smoke` has none."""
    languages = (_BASE, code) if has_text else (_BASE,)
    return f"retention.tasks=[{','.join(f'text:text_{one}' for one in languages)}]"


def grid_settings(
    code: str, folder: Path, *, has_text: bool, answer_tokens: int, rows: Mapping[str, int]
) -> list[str]:
    """Return the overrides of every experiment in the language.

    Args:
        code: Language code.
        folder: Folder of the embedded data in the language.
        has_text: Whether there is running text.
        answer_tokens: Tokens of the longest answer with the end of the turn.
        rows: Stage -> tokens of its longest sample (`measure_rows`).
    """
    profile = read_yaml(_PROFILE)
    settings = [f"languages.target={code}", f"data.folder={folder}"]
    for stage, needed in rows.items():
        if needed > profile[stage]["row_tokens"]:
            settings.append(f"{stage}.row_tokens={needed}")
        if needed > profile[stage]["micro_batch_tokens"]:
            settings.append(f"{stage}.micro_batch_tokens={needed}")
    if answer_tokens > profile["evaluate"]["max_new_tokens"]:
        settings.append(f"evaluate.max_new_tokens={answer_tokens}")
    if has_text:
        return settings
    chat, text = (profile["instruct"]["text_only"][key] for key in ("chat", "text"))
    both = chat["samples_per_step"] + text["samples_per_step"]
    return [
        *settings,
        "instruct.text_only.text.samples_per_step=0",
        f"instruct.text_only.chat.samples_per_step={both:g}",
    ]


def measure_rows(folder: Path, code: str, lengths_folder: Path) -> dict[str, int]:
    """Return stage -> tokens of its longest sample in both languages.

    Args:
        folder: Folder of the embedded data.
        code: Language code.
        lengths_folder: Folder of measured lengths.
    """
    profile = read_yaml(_PROFILE)
    backbone = _backbone(profile)
    tokenizer = load_tokenizer(backbone["path"], is_local=True)
    num_image_tokens = sum(grid * grid for grid in profile["model"]["tower"]["grids"])
    template = TEMPLATES[backbone["template"]]
    chat = ChatFormat(tokenizer, template, num_image_tokens=num_image_tokens)
    longest: dict[str, int] = {}
    for stage in ("align", "instruct"):
        style = PromptStyle(profile[stage]["prompt_style"])
        parts = {**profile[stage]["visual"], **profile[stage].get("text_only", {})}
        names = {part["source"] for part in parts.values()}
        both = [f"{name}_{one}" for name in sorted(names) for one in (_BASE, code)]
        paths = [folder / f"{name}{SUFFIX}" for name in both]
        longest[stage] = max(
            (
                measure_lengths(Source(path), chat, style, lengths_folder).longest
                for path in paths
                if path.is_file()
            ),
            default=0,
        )
    return longest


def _backbone(profile: Any) -> dict[str, str]:
    found: dict[str, str] = profile["backbones"][profile["cell"]["backbone"]]
    return found

"""Prompt templates of benchmark questions, read from one YAML file per language."""

import dataclasses
import re
import string
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from core.chat.tokens import IMAGE_MARK
from core.config import load_config
from core.errors import ConfigError, unknown_name
from core.languages import FOLDER, PROMPTS, language_file
from core.samples import Role, Turn
from evaluation.answers.choice_words import ChoiceWords
from evaluation.answers.phrases import compile_phrases, plain_text
from evaluation.answers.yes_no import YesNoWords
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits

BARE_STYLE = "bare"
INSTRUCTED_STYLE = "instructed"

_QUESTION = "{question}"
_CHOICES = "{choices}"
_PLACEHOLDER = re.compile(r"\{[^{}]*\}?|\}")
_SINGLE_WORDS = (
    "answer_words",
    "filler_words",
    "negations",
    "one_letter_words",
    "contrast_words",
    "plural_endings",
)
"""Lists whose entries are compared with single words of a reply."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptFile:
    """Contents of `languages/CODE/prompts.yaml`."""

    yes_words: list[str] = dataclasses.field(default_factory=list)
    no_words: list[str] = dataclasses.field(default_factory=list)
    yes_replies: list[str] = dataclasses.field(default_factory=list)
    """Phrases that mean yes only as a complete clause, such as "it is"."""
    no_replies: list[str] = dataclasses.field(default_factory=list)
    undecided_phrases: list[str] = dataclasses.field(default_factory=list)
    """Phrases of replies between yes and no, such as "maybe"."""
    refusal_phrases: list[str] = dataclasses.field(default_factory=list)
    """Phrases of replies that decline to answer, such as "can't see ... image"."""
    answer_words: list[str] = dataclasses.field(default_factory=list)
    """Words that announce an option letter, such as "answer" and "option"."""
    filler_words: list[str] = dataclasses.field(default_factory=list)
    """Words that may stand between an answer word and the answer, such as "the" and "is"."""
    negations: list[str] = dataclasses.field(default_factory=list)
    """Words that reject what their clause states, such as "not" and "wrong"."""
    one_letter_words: list[str] = dataclasses.field(default_factory=list)
    """Words of one letter that are not option letters, such as "a"."""
    contrast_words: list[str] = dataclasses.field(default_factory=list)
    """Words that begin a new clause, such as "but"."""
    plural_endings: list[str] = dataclasses.field(default_factory=list)
    """Endings of regular plurals, such as "s"."""
    styles: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """Maps style and benchmark to a template with {question} and, for mc, {choices}."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PromptBook:
    """Templates of one style, and words for parsing replies, for every language of a run."""

    templates: Mapping[str, Mapping[str, str]]
    """Maps language and benchmark to a template."""
    yes_no_words: Mapping[str, YesNoWords]
    refusal_phrases: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Phrases of replies that decline to answer, by language."""
    choice_words: Mapping[str, ChoiceWords] = dataclasses.field(default_factory=dict)
    """Words for parsing replies to multiple-choice questions, by language."""
    limits: ReplyLimits = dataclasses.field(default_factory=ReplyLimits)
    """Lengths of the replies that are asked for."""
    guided_choice: bool = False
    """Whether the replies to multiple-choice questions must be one of the options."""

    def question_text(self, item: BenchmarkItem) -> str:
        """Return the text of the user turn, without the image placeholder."""
        lines = [
            f"{letter}. {choice}"
            for letter, choice in zip(string.ascii_uppercase, item.choices, strict=False)
        ]
        template = self.templates[item.language][item.benchmark]
        # The template is split before the question is inserted, so braces in questions are kept.
        before, mark, after = template.partition(_QUESTION)
        before, after = (part.replace(_CHOICES, "\n".join(lines)) for part in (before, after))
        return f"{before}{item.question if mark else ''}{after}"

    def letters(self, item: BenchmarkItem) -> tuple[str, ...]:
        """Return the letters of the choices; empty if the prompt does not show them."""
        is_shown = _CHOICES in self.templates[item.language][item.benchmark]
        return tuple(string.ascii_uppercase[: len(item.choices)]) if is_shown else ()

    def question(self, item: BenchmarkItem, *, image: bytes | None = None) -> VisualQuestion:
        """Return the question of an item as a conversation of one user turn.

        Args:
            item: The benchmark item.
            image: Image to show instead of the item's own.
        """
        content = f"{IMAGE_MARK}\n{self.question_text(item)}"
        return VisualQuestion(
            turns=(Turn(role=Role.USER, content=content),),
            image=item.image if image is None else image,
            max_new_tokens=self.limits.of_kind(item.benchmark),
            options=(self.letters(item) or item.choices) if self.guided_choice else (),
        )


def load_prompts(
    languages: Iterable[str],
    *,
    style: str = BARE_STYLE,
    limits: ReplyLimits | None = None,
    guided_choice: bool = False,
    folder: Path = FOLDER,
) -> PromptBook:
    """Load the prompt files of some languages.

    A language without a file gets the bare question and no words for yes and no, so scoring a
    yes/no benchmark in it raises an error.

    Args:
        languages: Language codes.
        style: Style of the templates.
        limits: Maximum lengths of the replies; None for the default.
        guided_choice: Whether the replies to multiple-choice questions must be one of the options.
        folder: Folder of the language files.

    Raises:
        ConfigError: If a file lacks the style, a template lacks {question}, or a word means both
            yes and no or has no letters.
    """
    templates: dict[str, Mapping[str, str]] = {}
    words: dict[str, YesNoWords] = {}
    choice_words: dict[str, ChoiceWords] = {}
    for language in languages:
        path = language_file(language, PROMPTS, folder)
        file = _parse_prompt_file(path, path.read_bytes()) if path.is_file() else PromptFile()
        words[language] = _parse_yes_no_words(file, path)
        choice_words[language] = _choice_words(file, path)
        templates[language] = _parse_templates(file, style, path)
    return PromptBook(
        templates=templates,
        yes_no_words=words,
        refusal_phrases={code: own.refusal_phrases for code, own in choice_words.items()},
        choice_words=choice_words,
        limits=limits or ReplyLimits(),
        guided_choice=guided_choice,
    )


@lru_cache(maxsize=64)
def _parse_prompt_file(path: Path, content: bytes) -> PromptFile:
    """Parse a prompt file once for all checks of a plan, and again if its content has changed."""
    del content
    return load_config(PromptFile(), path)


def _parse_yes_no_words(file: PromptFile, path: Path) -> YesNoWords:
    yes, no = (
        [plain_text(word) for word in words]
        for words in (file.yes_words + file.yes_replies, file.no_words + file.no_replies)
    )
    if "" in yes + no:
        raise ConfigError(f"{path}: a word of yes_words or no_words has no letters")
    if both := sorted({*yes} & {*no}):
        raise ConfigError(f"{path}: {', '.join(both)} is in yes_words and in no_words; keep one")
    neither = (*file.undecided_phrases, *file.refusal_phrases)
    try:
        compile_phrases(neither)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return YesNoWords(
        yes=tuple(file.yes_words),
        no=tuple(file.no_words),
        yes_replies=tuple(file.yes_replies),
        no_replies=tuple(file.no_replies),
        neither=neither,
        openings=(*file.answer_words, *file.filler_words),
    )


def _choice_words(file: PromptFile, path: Path) -> ChoiceWords:
    for key in _SINGLE_WORDS:
        for text in getattr(file, key):
            if len(plain_text(text).split()) != 1:
                raise ConfigError(
                    f"{path}: {key}: '{text}' is not a single word, so no reply could match it; "
                    "remove it or list its words"
                )
    return ChoiceWords(
        answer_words=tuple(file.answer_words),
        filler_words=tuple(file.filler_words),
        one_letter_words=tuple(file.one_letter_words),
        negations=tuple(file.negations),
        contrast_words=tuple(file.contrast_words),
        plural_endings=tuple(file.plural_endings),
        refusal_phrases=tuple(file.refusal_phrases),
    )


def _parse_templates(file: PromptFile, style: str, path: Path) -> dict[str, str]:
    if style == BARE_STYLE:
        chosen = {kind.value: _QUESTION for kind in Benchmark} | dict(file.styles.get(style, {}))
    elif style in file.styles:
        chosen = dict(file.styles[style])
    else:
        message = unknown_name("prompt style", style, {BARE_STYLE, *file.styles})
        raise ConfigError(f"{message} Add it to {path}")
    known = [kind.value for kind in Benchmark]
    if unknown := sorted(chosen.keys() - set(known)):
        raise ConfigError(
            f"{path}: styles.{style}: {unknown_name('kind of benchmark', unknown[0], known)}"
        )
    for kind in Benchmark:
        template = chosen.get(kind, "")
        if template.count(_QUESTION) != 1:
            raise ConfigError(
                f"{path}: template styles.{style}.{kind} is {chosen.get(kind)!r}; "
                f"it must contain {_QUESTION} once"
            )
        usable = {_QUESTION, _CHOICES} if kind is Benchmark.MULTIPLE_CHOICE else {_QUESTION}
        if others := sorted(set(_PLACEHOLDER.findall(template)) - usable):
            raise ConfigError(
                f"{path}: template styles.{style}.{kind} has '{others[0]}', which is not a "
                f"placeholder there; it may contain {', '.join(sorted(usable))}"
            )
    return chosen

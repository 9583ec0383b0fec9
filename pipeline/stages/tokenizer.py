"""Stage kind `tokenizer`: a byte-level BPE trained on text sources."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from core.chat.templates import TEMPLATES, ChatTemplate
from core.config import to_plain
from datamodules.shards.source import Source
from pipeline.stages.base import Stage, StageContext

_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's rule, except that marks belong to a word: its rule splits scripts such as Devanagari,
whose vowels are marks, at every vowel."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerStage(Stage):
    """A byte-level BPE; a word has the same tokens at the start of a turn as inside it.

    Every text can be encoded: what no merge covers is encoded as bytes.
    """

    kind: ClassVar[str] = "tokenizer"
    recipe_version: ClassVar[int] = 2

    sources: tuple[str, ...]
    """Manifest paths, in order."""
    vocab_size: int
    """Number of entries, special tokens included."""
    template: str
    """Chat template whose markers become special tokens."""

    @property
    def manifests(self) -> tuple[str, ...]:
        """Paths of the text sources."""
        return self.sources

    @property
    def definitions(self) -> Mapping[str, object]:
        """The chat template, whose markers become tokens."""
        return {f"chat template {self.template}": to_plain(TEMPLATES[self.template])}

    def run(self, context: StageContext) -> None:
        """Train the tokenizer and save it in Hugging Face format."""
        tokenizer = train_tokenizer(
            _iterate_turns(self.sources), self.vocab_size, TEMPLATES[self.template]
        )
        tokenizer.save_pretrained(context.folder.scratch)


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, template: ChatTemplate
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on texts, with the markers of a chat template as special tokens."""
    special_tokens = _special_tokens(template)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=template.bos,
        eos_token=template.assistant_suffix,
        pad_token=template.pad_token,
        additional_special_tokens=special_tokens,
        clean_up_tokenization_spaces=False,
    )


def _special_tokens(template: ChatTemplate) -> list[str]:
    markers = (
        template.pad_token,
        template.bos,
        template.user_prefix,
        template.assistant_prefix,
        template.system_prefix,
        template.assistant_suffix,
        template.image_token,
    )
    return list(dict.fromkeys(markers))


def _iterate_turns(manifests: tuple[str, ...]) -> Iterator[str]:
    for manifest in manifests:
        source = Source(Path(manifest))
        for index in range(len(source)):
            for turn in source.read(index, with_image=False).turns:
                yield turn.content

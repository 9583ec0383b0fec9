"""Lengths of samples in a chat format, measured in the same pass that indexes them.

Separate from `scan`, which does not depend on tokenizers.
"""

import dataclasses
import functools

from core.chat.format import ChatFormat, PromptStyle, load_tokenizer
from core.chat.templates import TEMPLATES
from core.errors import ConfigError, unknown_name
from datamodules.batches.lengths import ShardLengths, chat_fingerprint


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LengthsPlan:
    """The chat format in which samples are measured."""

    tokenizer: str
    """Folder or name on the Hub."""
    template: str
    num_image_tokens: int
    """Visual tokens per image: 576 for CLIP ViT-L/14 at 336 pixels."""
    styles: tuple[PromptStyle, ...]

    def __post_init__(self) -> None:
        """Validate the fields."""
        if self.template not in TEMPLATES:
            raise ConfigError(unknown_name("chat template", self.template, TEMPLATES))
        if self.num_image_tokens < 1 or not self.styles:
            raise ConfigError(
                f"--image-tokens {self.num_image_tokens}, --prompt-styles {list(self.styles)}; "
                "give at least one of each"
            )

    def addresses(self) -> list[str]:
        """Return the content address of the chat format in each style."""
        return [chat_fingerprint(_load_chat_format(self), style) for style in self.styles]

    def counters(self) -> list[ShardLengths]:
        """Return an empty length counter for a shard in each style."""
        return [ShardLengths(_load_chat_format(self), style) for style in self.styles]


@functools.cache
def _load_chat_format(plan: LengthsPlan) -> ChatFormat:
    """Load the chat format once per process."""
    template = TEMPLATES[plan.template]
    tokenizer = load_tokenizer(plan.tokenizer)
    return ChatFormat(tokenizer, template, num_image_tokens=plan.num_image_tokens)

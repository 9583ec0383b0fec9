"""How long samples are in one chat format, measured in the pass that indexes them.

Kept apart from `index_build`, which knows shards but no tokenizers.
"""

import dataclasses
import functools

from core.chat.format import TEMPLATES, ChatFormat, PromptStyle, load_tokenizer
from core.errors import ConfigError, unknown_name
from datamodules.batches.lengths import ShardLengths, chat_fingerprint


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LengthsPlan:
    """The chat format to measure in."""

    tokenizer: str
    """Folder or hub name."""
    template: str
    num_image_tokens: int
    """Visual tokens of an image: 576 for CLIP ViT-L/14 at 336 pixels."""
    styles: tuple[PromptStyle, ...]

    def __post_init__(self) -> None:
        """Check what has no type to protect it."""
        if self.template not in TEMPLATES:
            raise ConfigError(unknown_name("chat template", self.template, TEMPLATES))
        if self.num_image_tokens < 1 or not self.styles:
            raise ConfigError("lengths need at least one visual token and one prompt style")

    def addresses(self) -> list[str]:
        """Content address of the chat format in each style."""
        return [chat_fingerprint(_chat(self), style) for style in self.styles]

    def counters(self) -> list[ShardLengths]:
        """Empty lengths of a shard in each style."""
        return [ShardLengths(_chat(self), style) for style in self.styles]


@functools.cache
def _chat(plan: LengthsPlan) -> ChatFormat:
    """Loaded once per process."""
    template = TEMPLATES[plan.template]
    tokenizer = load_tokenizer(plan.tokenizer)
    return ChatFormat(tokenizer, template, num_image_tokens=plan.num_image_tokens)

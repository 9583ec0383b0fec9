"""Settings that decide how questions are asked and how replies are scored.

Grids, exported cells and the command `python -m evaluation.run` share them, so that the same
settings give the same scores.
"""

import dataclasses

from core.errors import ConfigError
from evaluation.answers.yes_no import YesNoPolicy
from evaluation.benchmarks.prompting import INSTRUCTED_STYLE
from evaluation.benchmarks.questions import MAX_NEW_TOKENS
from evaluation.benchmarks.reply_limits import LONG_REPLIES, ReplyLimits

ASKING_FILE = "evaluation.yaml"
"""File of an exported cell with the settings of its own evaluation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskingConfig:
    """Settings of asking questions and scoring replies."""

    prompt_style: str = INSTRUCTED_STYLE
    """Style of the prompts in languages/*/prompts.yaml: `bare` is the question alone, `instructed`
    asks as the authors of each benchmark do."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Maximum number of tokens of a reply, for benchmarks that `max_new_tokens_by_kind` does not
    name."""
    max_new_tokens_by_kind: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict(LONG_REPLIES)
    )
    """Kind of benchmark (vqa, mc, capqa, da, open, wild) -> maximum number of tokens of a reply."""
    yes_no_policy: YesNoPolicy = YesNoPolicy.ASKED_LANGUAGE
    """Languages in which a reply of yes or no is accepted."""
    relaxed: bool = True
    """Whether the language-aware score also matches definite and bare forms of an answer."""

    def __post_init__(self) -> None:
        """Reject an empty style and limits that are not positive or of an unknown kind."""
        if not self.prompt_style:
            raise ConfigError("evaluate.prompt_style is empty; set bare or instructed")
        try:
            _ = self.limits
        except ConfigError as error:
            raise ConfigError(f"evaluate.{error}") from error

    @classmethod
    def of(cls, config: "AskingConfig") -> "AskingConfig":
        """Return the part of a larger configuration that concerns asking and scoring."""
        return AskingConfig(**{f.name: getattr(config, f.name) for f in dataclasses.fields(cls)})

    @property
    def limits(self) -> ReplyLimits:
        """Maximum lengths of the replies to each kind of benchmark."""
        return ReplyLimits(default=self.max_new_tokens, by_kind=self.max_new_tokens_by_kind)

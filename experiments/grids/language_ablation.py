"""One target language of many: which share is sufficient, with a language model that knows none?"""

from configuration.axes import vary
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from evaluation.retention import RetentionConfig

SMALL_GRID = (0.0, 0.2, 0.5, 1.0)
"""Shares of every language."""
_BACKBONE = "base_only"
"""Language model that has read English alone. Its tokenizer also has subwords of Basque, which it
shares with the other models: compare `tokens` on the page before you compare Basque with others."""
_ROW_TOKENS = {"align": 256, "instruct": 640}
"""The same rows for all languages: scripts that are split into bytes need longer ones."""
_MAX_NEW_TOKENS = 32


def cells(base: RunConfig) -> list[RunConfig]:
    """Return four shares of one target language; `python -m experiments.languages` trains several.

    The features of the images are the same stage run for all languages whose data lie in one
    folder. Text-only tasks are left out, which few languages have.
    """
    backbone = _BACKBONE if _BACKBONE in base.backbones else base.cell.backbone
    return vary(for_any_language(base), backbone=(backbone,), target_share=SMALL_GRID)


def for_any_language(base: RunConfig) -> RunConfig:
    """Return a configuration with longer rows and replies, and without text-only tasks."""
    values: dict[str, object] = {"retention": RetentionConfig()}
    for stage, tokens in _ROW_TOKENS.items():
        values[f"{stage}.row_tokens"] = max(tokens, getattr(base, stage).row_tokens)
    limit = max(_MAX_NEW_TOKENS, base.evaluate.max_new_tokens)
    values["evaluate.max_new_tokens"] = limit
    return replace_fields(base, values)

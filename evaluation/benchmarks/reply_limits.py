"""Limits of the length of replies, by kind of benchmark."""

import dataclasses
from collections.abc import Mapping

from core.errors import ConfigError, unknown_name
from evaluation.benchmarks.items import Benchmark
from evaluation.benchmarks.questions import MAX_NEW_TOKENS

LONG_REPLIES = {Benchmark.OPEN.value: 512, Benchmark.WILD.value: 4096}
"""Limits of benchmarks that ask for sentences. WildVision-Bench lets models write 4,096 tokens."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReplyLimits:
    """Maximum number of tokens of a reply."""

    default: int = MAX_NEW_TOKENS
    """Limit of the kinds that `by_kind` does not name."""
    by_kind: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Kind of benchmark -> its limit."""

    def __post_init__(self) -> None:
        """Reject limits below 1 and unknown kinds."""
        if self.default < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.default}")
        known = [kind.value for kind in Benchmark]
        for kind, limit in self.by_kind.items():
            if kind not in known:
                unknown = unknown_name("kind of benchmark", kind, known)
                raise ConfigError(f"max_new_tokens_by_kind: {unknown}")
            if limit < 1:
                raise ConfigError(f"max_new_tokens_by_kind.{kind} must be at least 1, got {limit}")

    def prompts_per_batch(self, batch_size: int, limit: int, num_image_tokens: int) -> int:
        """Return the number of prompts that share a batch whose replies have a limit.

        Longer replies get smaller batches, so that their keys and values need no more memory than
        those of a full batch with the default limit. Replies do not depend on it.

        Args:
            batch_size: Number of prompts for replies of at most the default limit.
            limit: Limit of the batch.
            num_image_tokens: Number of tokens of an image, the largest part of most prompts.
        """
        if limit <= self.default:
            return batch_size
        tokens = batch_size * (num_image_tokens + self.default)
        return max(1, tokens // (num_image_tokens + limit))

    def of_kind(self, kind: Benchmark) -> int:
        """Return the limit of a kind of benchmark."""
        return self.by_kind.get(kind.value, self.default)

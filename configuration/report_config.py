"""Configuration of the report of a grid."""

import dataclasses
from enum import StrEnum


class DecidingMetric(StrEnum):
    """Rules by which a reply to an open question is scored; all of them are reported."""

    OFFICIAL = "vqa"
    """VQAv2's own program, which does not normalise unanimous answers."""
    LMMS = "vqa_lmms"
    """The same rules, always normalised, as in lmms-eval."""
    AWARE = "vqa_aware"
    """Normalisation by the rules of the language."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Configuration of the report; not part of any address."""

    deciding_metric: DecidingMetric = DecidingMetric.OFFICIAL
    """Metric on which claims about open questions are decided."""

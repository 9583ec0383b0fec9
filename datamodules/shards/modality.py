"""Kinds of content of a source, which commands list before they load numpy."""

from enum import StrEnum


class Modality(StrEnum):
    """Kind of content of the samples of a source."""

    IMAGE_TEXT = "image-text"
    TEXT = "text"
    BENCHMARK = "benchmark"

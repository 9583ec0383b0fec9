"""A photograph with its texts, as the readers of packages return it."""

import dataclasses
from collections.abc import Mapping

ENGLISH = "en"
"""Language in which the packages were written; others are translations."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PhotoPackage:
    """A Debian package with photographs."""

    key: str
    """First part of the keys of its photographs."""
    name: str
    licence: str
    """SPDX identifier of the licence of its texts."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """A photograph and the texts that people wrote about it."""

    key: str
    """Identifier, also of the image in the shards."""
    image: bytes
    group: str
    """Photographs of a group show similar things, so their texts are plausible wrong answers."""
    titles: Mapping[str, str]
    """Language -> short name or caption."""
    descriptions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Language -> sentences about what is shown; empty if there are none."""

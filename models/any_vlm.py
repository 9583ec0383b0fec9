"""Vision-language models of every family, as training uses them."""

from typing import TypeAlias

from models.ready_made.model import ReadyMadeVlm
from models.vlm import VisionLanguageModel

AnyVlm: TypeAlias = VisionLanguageModel | ReadyMadeVlm
"""A composed or a ready-made model."""

"""Rules of training for a class of ready-made models; one subclass per family."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from enum import StrEnum
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from core.errors import ConfigError, unknown_name
from core.samples import MicroBatch
from models.language.attention import AttentionKind, attention_inputs
from models.ready_made import classes


class ModelPart(StrEnum):
    """Part of a ready-made model that can be trained or frozen."""

    TOWER = "tower"
    """The vision encoder."""
    CONNECTOR = "connector"
    """What maps its features to the width of the language model."""
    LANGUAGE_MODEL = "language_model"
    """The decoder, its embeddings and its output layer."""


class ReadyMadeClass:
    """Rules of a family of classes; the defaults suit classes without multimodal positions."""

    model_types: ClassVar[tuple[str, ...]]
    """Values of `model_type` in config.json."""
    tower: ClassVar[tuple[str, ...]]
    """Beginnings of the names of the weights of the vision encoder."""
    connector: ClassVar[tuple[str, ...]]
    """Beginnings of the names of the connector's weights, inside or outside of the encoder."""
    has_rotary_axes: ClassVar[bool] = False
    """Whether `rotary_positions` replaces the position in the document."""

    patches_per_token: int = 1
    """Patches of the vision encoder for each visual token."""

    def __init__(self, config: Any) -> None:
        """Keep the configuration of a model."""
        self.config = config

    def part_of(self, name: str) -> ModelPart:
        """Return the part to which a weight belongs."""
        if name.startswith(self.connector):
            return ModelPart.CONNECTOR
        return ModelPart.TOWER if name.startswith(self.tower) else ModelPart.LANGUAGE_MODEL

    def rotary_positions(
        self, input_ids_T: np.ndarray, geometry: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Return the positions (A, T) of one document, as the class computes them.

        Args:
            input_ids_T: Token ids with placeholders.
            geometry: Geometry of the image (`core.chat.ready_made.ImagePlaceholders`), or nothing.
        """
        raise NotImplementedError

    @property
    def vision_sizes(self) -> tuple[int, int, int]:
        """Width, inner width and number of blocks of the vision encoder, for plans."""
        vision = self.config.vision_config
        return vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers

    def count_image_tokens(
        self, size: tuple[int, int], *, min_pixels: int | None, max_pixels: int | None
    ) -> int:
        """Return the visual tokens of an image without its processor, for plans.

        Raises:
            ConfigError: If the class needs its processor for this.
        """
        del size, min_pixels, max_pixels
        raise ConfigError(
            f"the number of visual tokens of a {self.config.model_type} model depends on its image "
            "processor; download the model to plan it"
        )

    def attention_inputs(
        self, micro_batch: MicroBatch, kind: AttentionKind, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Return the arguments of the forward pass that separate packed documents."""
        return attention_inputs(micro_batch, kind, dtype, self.config.get_text_config())

    def join_images(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Join the inputs of several images, as the processor does for a batch."""
        return {name: torch.cat([image[name] for image in images]) for name in images[0]}


def pad_and_join(
    images: Sequence[Mapping[str, torch.Tensor]], *, dim: int
) -> dict[str, torch.Tensor]:
    """Join inputs along a dimension; the others are filled up with zeros to the largest size."""
    joined = {}
    for name in images[0]:
        tensors = [image[name] for image in images]
        sizes = torch.tensor([tensor.shape for tensor in tensors])
        missing = sizes.max(dim=0).values - sizes
        missing[:, dim] = 0
        padded = [
            functional.pad(tensor, [side for size in reversed(row) for side in (0, size)])
            for tensor, row in zip(tensors, missing.tolist(), strict=True)
        ]
        joined[name] = torch.cat(padded, dim=dim)
    return joined


@cache
def model_classes() -> dict[str, type[ReadyMadeClass]]:
    """Return the supported classes by model type."""
    found: dict[str, type[ReadyMadeClass]] = {}
    for info in sorted(pkgutil.iter_modules(classes.__path__), key=lambda info: info.name):
        module = importlib.import_module(f"{classes.__name__}.{info.name}")
        for _, member in inspect.getmembers(module, inspect.isclass):
            if issubclass(member, ReadyMadeClass) and member.__module__ == module.__name__:
                found |= dict.fromkeys(member.model_types, member)
    return found


def model_class(config: Any, source: str) -> ReadyMadeClass:
    """Return the rules for a configuration of transformers.

    Raises:
        ConfigError: If its class is not supported; names those that are.
    """
    known = model_classes()
    if config.model_type not in known:
        fix = (
            f"'{source}' is not one of the classes that can be trained as they are; choose another "
            "model, or add its class in models/ready_made/classes"
        )
        raise ConfigError(unknown_name("model_type", str(config.model_type), known, fix=fix))
    return known[config.model_type](config)

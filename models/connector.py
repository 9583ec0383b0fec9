"""Connectors, through which the features of images reach the language model.

Every module of `models.architectures` defines one architecture; another one takes another module
there and no change elsewhere. Shape legend: core/samples.py.
"""

import abc
import dataclasses
import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import nn

from core.config import ABSENT_IF_NONE
from core.errors import ConfigError, unknown_name
from core.rng import torch_generator
from models import architectures
from models.fusion import fuse
from models.image_layout import ImageLayout
from models.towers.vision_tower import VisionTowerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectorConfig:
    """Configuration of the connector, which is also the choice of the architecture."""

    kind: str = "linear"
    """Name of a module of `models.architectures`: linear, mlp2x_gelu, resampler, cross_attention or
    single_stream."""
    options: dict[str, dict[str, int]] | None = dataclasses.field(
        default=None, metadata=ABSENT_IF_NONE
    )
    """Architecture -> its options. A profile may list options of several architectures; only those
    of `kind` have an effect."""

    def __post_init__(self) -> None:
        """Check the names, and that options are positive."""
        get_connector_class(self.kind)
        for kind, options in (self.options or {}).items():
            known = get_connector_class(kind).default_options
            for name, value in options.items():
                if name not in known:
                    what = f"option of model.connector.options.{kind}"
                    raise ConfigError(unknown_name(what, name, known))
                if value < 1:
                    raise ConfigError(
                        f"model.connector.options.{kind}.{name} must be at least 1, got {value}"
                    )

    def __hash__(self) -> int:
        """Return a hash; the generated one would fail for the dictionary."""
        return hash((self.kind, json.dumps(self.options, sort_keys=True)))

    @property
    def own_options(self) -> dict[str, int]:
        """Options of `kind`, with the defaults of those that are not set."""
        defaults = get_connector_class(self.kind).default_options
        return {**defaults, **(self.options or {}).get(self.kind, {})}

    def resolved(self) -> Self:
        """Return what determines results: all options of `kind` and no others."""
        own = self.own_options
        return dataclasses.replace(self, options={self.kind: own} if own else None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConnectorSizes:
    """Sizes of the parts that a connector joins."""

    vision_width: int
    model_width: int
    options: Mapping[str, int]
    """All options of the architecture."""
    language_model: Any = None
    """Hugging Face configuration of the language model, for connectors that work inside it."""


class Connector(nn.Module, abc.ABC):
    """Path of the features (N, P, E) of images into the language model.

    By default the output replaces the embeddings of placeholders. The module of a subclass is the
    part `connector` of a model: it is saved, trained and counted under this name.
    """

    default_options: ClassVar[Mapping[str, int]] = {}
    """Options and their default values."""
    works_inside: ClassVar[bool] = False
    """Whether the connector works inside the decoder (`decoder_arguments`)."""
    trains_language_model: ClassVar[bool] = True
    """Whether stage 2 trains the language model, unless `instruct.policy` says otherwise."""
    relative_lr: ClassVar[float] = 1.0
    """Suggested learning rate of stage 1 relative to that of a linear connector, for experiments
    that compare architectures."""
    caches_features: ClassVar[bool] = True
    """Whether features are worth a cache (`model.cache_features`)."""
    can_compile: ClassVar[bool] = True
    """Whether decoder blocks can be compiled with this connector."""

    def __init__(self, sizes: ConnectorSizes) -> None:
        super().__init__()
        self.vision_width = sizes.vision_width

    @classmethod
    def choose_tower(
        cls, tower: VisionTowerConfig, options: Mapping[str, int]
    ) -> VisionTowerConfig:
        """Return the tower of the architecture; by default, the configured one."""
        del options
        return tower

    @classmethod
    def count_image_tokens(cls, num_features: int, options: Mapping[str, int]) -> int:
        """Return the number of placeholders of an image whose tower gives `num_features`."""
        del options
        return num_features

    @abc.abstractmethod
    def forward(self, features_NPE: torch.Tensor) -> Any:
        """Return what the language model receives of each image; embeddings (N, P, D) by default.

        The features are cast to the compute dtype of the connector under mixed precision.
        """

    def cast(self, features_NPE: torch.Tensor) -> torch.Tensor:
        """Cast features to the type of the weights."""
        return features_NPE.to(next(self.parameters()).dtype)

    def embed_images(
        self,
        embeds_BTD: torch.Tensor,
        features_NPE: torch.Tensor,
        image_positions_M: torch.Tensor,
    ) -> torch.Tensor:
        """Return the embeddings of the decoder; by default with images in place of placeholders."""
        return fuse(embeds_BTD, self(self.cast(features_NPE)), image_positions_M)

    def idle(self) -> torch.Tensor:
        """Return a zero (scalar) whose graph contains every parameter.

        A text-only micro-batch does not use the connector, but data-parallel training needs the
        gradient of every parameter on every rank (otherwise DDP raises and FSDP hangs).
        """
        weight = next(self.parameters())
        shape = (1, 1, self.vision_width)
        features_NPE = torch.zeros(shape, device=weight.device, dtype=weight.dtype)
        zero: torch.Tensor = 0.0 * self(features_NPE).sum()
        return zero

    def attach(self, language_model: nn.Module) -> None:
        """Prepare a language model for `decoder_arguments`; by default nothing is needed."""

    def decoder_arguments(self, features_NPE: torch.Tensor, layout: ImageLayout) -> dict[str, Any]:
        """Return further arguments of the decoder; used if `works_inside`."""
        del features_NPE, layout
        return {}

    def sharding_groups(self) -> list[nn.Module]:
        """Return the submodules that are gathered one after the other under FSDP2."""
        return []

    def run_inside(self, hidden_NLD: torch.Tensor, features_NPE: torch.Tensor) -> torch.Tensor:
        """Run everything that works inside the decoder on tokens that see an image, for counts."""
        del features_NPE
        return hidden_NLD

    @classmethod
    def block_period(cls, options: Mapping[str, int]) -> int:
        """Return the number of decoder blocks after which the work inside the decoder repeats."""
        del options
        return 1


_CONNECTOR_CLASSES: dict[str, type[Connector]] = {}
_ConnectorT = TypeVar("_ConnectorT", bound=type[Connector])


def register_connector(kind: str) -> Callable[[_ConnectorT], _ConnectorT]:
    """Register the decorated class under the name of its architecture."""

    def register(connector_class: _ConnectorT) -> _ConnectorT:
        _CONNECTOR_CLASSES[kind] = connector_class
        return connector_class

    return register


def connector_kinds() -> tuple[str, ...]:
    """Return the names of all architectures."""
    return tuple(module.name for module in pkgutil.iter_modules(architectures.__path__))


def get_connector_class(kind: str) -> type[Connector]:
    """Return the class of an architecture, whose module is imported on first use.

    Raises:
        ConfigError: If there is no such architecture.
    """
    if kind not in connector_kinds():
        raise ConfigError(unknown_name("model.connector.kind", kind, connector_kinds()))
    importlib.import_module(f"{architectures.__name__}.{kind}")
    return _CONNECTOR_CLASSES[kind]


def empty_connector(
    config: ConnectorConfig, *, vision_width: int, model_width: int, language_model: Any = None
) -> Connector:
    """Build a connector whose weights are not initialised as `build_connector` does."""
    sizes = ConnectorSizes(
        vision_width=vision_width,
        model_width=model_width,
        options=config.own_options,
        language_model=language_model,
    )
    return get_connector_class(config.kind)(sizes)


def build_connector(
    config: ConnectorConfig,
    *,
    vision_width: int,
    model_width: int,
    seed: int,
    language_model: Any = None,
) -> Connector:
    """Build a connector whose initial weights depend on the seed only.

    Weights are uniform in +-1/sqrt(inputs), as those of torch.nn.Linear; biases and gates are zero,
    and norms start as the identity.

    Args:
        config: Architecture and its options.
        vision_width: Width of the features.
        model_width: Width of the language model.
        seed: Seed of the weights.
        language_model: Hugging Face configuration of the language model, which connectors that work
            inside it need.
    """
    connector = empty_connector(
        config, vision_width=vision_width, model_width=model_width, language_model=language_model
    )
    norms = {
        id(parameter)
        for module in connector.modules()
        if isinstance(module, nn.LayerNorm | nn.RMSNorm)
        for parameter in module.parameters(recurse=False)
    }
    for name, parameter in connector.named_parameters():
        if id(parameter) in norms:
            continue
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
            continue
        bound = parameter.shape[1] ** -0.5
        generator = torch_generator(seed, "connector", name)
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    return connector


def count_placeholders(config: ConnectorConfig, num_features: int) -> int:
    """Return the number of placeholders of an image whose tower gives `num_features`."""
    return get_connector_class(config.kind).count_image_tokens(num_features, config.own_options)

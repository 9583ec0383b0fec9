"""The mixture stream: global sample index -> which sample, with nothing remembered in between.

CONTRACT: the order of training samples is a pure function of (seed, mixture, global sample index).
World size, workers and micro-batches only decide who computes which part.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core import config as configs
from core.errors import ConfigError
from datamodules.schedule import EpochOrder, Schedule, permutation
from datamodules.sources import Source, check_parallel

DEFAULT_BLOCK_SHARDS = 64
_COUNT_CHUNK = 1 << 18


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComponentConfig:
    """One part of the mixture: a source, or two parallel ones of which each sample takes one."""

    base: str
    """Manifest of the source (of the base language, when `target` is given)."""
    samples_per_step: float
    """Samples of this component in one optimizer step, over all ranks; may be a fraction."""
    target: str = ""
    """Manifest with the same samples in the target language, if any."""
    target_share: float = 0.0
    """Share of the component's samples that are read from `target`, counted in samples."""
    max_epochs: float = 1000.0
    """Refuse to run when the component would be repeated more often than this."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        if not self.base:
            raise ConfigError("component without 'base'; name the manifest of its source")
        if not 0.0 <= self.target_share <= 1.0:
            raise ConfigError(f"target_share={self.target_share}, expected a share within 0..1")
        if self.target_share > 0 and not self.target:
            raise ConfigError(
                f"target_share={self.target_share} needs 'target': the manifest that is parallel "
                f"to {self.base}"
            )
        if not (math.isfinite(self.samples_per_step) and self.samples_per_step > 0):
            raise ConfigError(
                f"samples_per_step={self.samples_per_step}, expected a positive number; leave an "
                "unused component out"
            )
        if not self.max_epochs > 0:
            raise ConfigError(f"max_epochs={self.max_epochs}, expected a positive number")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MixtureConfig:
    """What is trained on, in which proportion, in which order."""

    components: dict[str, ComponentConfig]
    """By name, which keys a component's order: renaming reshuffles it, adding others does not."""
    seed: int = 0

    def __post_init__(self) -> None:
        """An empty mixture can't be run."""
        if not self.components:
            raise ConfigError("the mixture has no components; add at least one")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """Where the samples of some positions lie; arrays of one shape."""

    component: np.ndarray
    is_target: np.ndarray
    """Whether the sample is read from the component's target source."""
    epoch: np.ndarray
    sample: np.ndarray


class Component:
    """One component with its sources open."""

    def __init__(self, name: str, config: ComponentConfig, seed: int, block_shards: int) -> None:
        self.name, self.config = name, config
        self.base = Source(Path(config.base))
        self.target = Source(Path(config.target)) if config.target else None
        if self.target is not None:
            check_parallel(self.base, self.target)
        self._seed, self._block_shards = seed, block_shards
        self._language = permutation(len(self.base), seed, "language", name)
        self._num_target = math.floor(config.target_share * len(self.base) + 0.5)
        self._orders: dict[int, EpochOrder] = {}

    def __len__(self) -> int:
        """Samples in one epoch."""
        return len(self.base)

    def source(self, *, is_target: bool) -> Source:
        """The source that a sample is read from."""
        return self.target if is_target and self.target is not None else self.base

    def used_sources(self) -> list[Source]:
        """The sources that this share reads from."""
        used = [self.base] if self._num_target < len(self.base) else []
        return [*used, self.target] if self.target is not None and self._num_target else used

    def in_target(self, samples: np.ndarray) -> np.ndarray:
        """Whether each sample speaks the target language: the same in every epoch, and nested.

        A sample's rank does not depend on the share, so those of a small share are among those of
        a larger one, and every share sees the same pictures in the same order.
        """
        return self._language(samples) < self._num_target

    def samples_at(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Sample index at each (epoch, place in the epoch)."""
        samples = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            samples[here] = self._order(int(epoch))(places[here])
        return samples

    def _order(self, epoch: int) -> EpochOrder:
        if epoch not in self._orders:
            while len(self._orders) > 1:
                self._orders.pop(next(iter(self._orders)))
            sizes, name = self.base.shard_sizes, self.name
            self._orders[epoch] = EpochOrder(sizes, self._block_shards, self._seed, name, epoch)
        return self._orders[epoch]


class MixtureStream:
    """The whole stream; see the contract above."""

    def __init__(self, config: MixtureConfig, *, block_shards: int = DEFAULT_BLOCK_SHARDS) -> None:
        if block_shards < 1:
            raise ConfigError(f"block_shards={block_shards}, expected at least 1")
        self.config, self.block_shards = config, block_shards
        # Sorted: the file's order of components must not matter.
        self.names = tuple(sorted(config.components))
        parts = [config.components[name] for name in self.names]
        self._schedule = Schedule([part.samples_per_step for part in parts])
        self.components = tuple(
            Component(name, part, config.seed, block_shards)
            for name, part in zip(self.names, parts, strict=True)
        )

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimizer step, over all ranks."""
        return self._schedule.samples_per_step

    def locate(self, positions: np.ndarray) -> Located:
        """Find the samples at global positions (int64, any order)."""
        dealt = self._schedule(np.asarray(positions, dtype=np.int64))
        sizes = np.asarray([len(component) for component in self.components], dtype=np.int64)
        epochs, places = np.divmod(dealt.rank, sizes[dealt.component])
        samples = np.empty_like(places)
        is_target = np.zeros(places.shape, dtype=bool)
        for c, component in enumerate(self.components):
            here = dealt.component == c
            samples[here] = component.samples_at(epochs[here], places[here])
            is_target[here] = component.in_target(samples[here])
        return Located(component=dealt.component, is_target=is_target, epoch=epochs, sample=samples)

    def realised(self, start: int, stop: int) -> dict[str, int]:
        """Samples per source among the positions [start, stop)."""
        counts: dict[str, int] = {}
        for first in range(start, stop, _COUNT_CHUNK):
            located = self.locate(np.arange(first, min(stop, first + _COUNT_CHUNK)))
            for c, component in enumerate(self.components):
                for is_target in (False, True):
                    here = (located.component == c) & (located.is_target == is_target)
                    name = component.source(is_target=is_target).name
                    counts[name] = counts.get(name, 0) + int(here.sum())
        used = {source.name for part in self.components for source in part.used_sources()}
        return {name: count for name, count in counts.items() if name in used}

    def epochs(self, num_steps: int) -> dict[str, float]:
        """How often each component is gone through in so many steps."""
        counts = self._schedule.prefix_counts(num_steps * self.samples_per_step)
        return {c.name: int(n) / len(c) for c, n in zip(self.components, counts, strict=True)}

    def check_epochs(self, num_steps: int) -> None:
        """Refuse to repeat a component more than it allows.

        Raises:
            ConfigError: with the number of steps that would do.
        """
        for component, epochs in zip(self.components, self.epochs(num_steps).values(), strict=True):
            allowed = component.config.max_epochs
            if epochs > allowed:
                possible = int(allowed * len(component) / component.config.samples_per_step)
                raise ConfigError(
                    f"component '{component.name}' ({len(component)} samples) would be repeated "
                    f"{epochs:.2f} times in {num_steps} steps, max_epochs={allowed:g}; run at most "
                    f"{possible} steps, lower samples_per_step or raise max_epochs"
                )

    def description(self) -> dict[str, Any]:
        """All that the order depends on, as JSON types."""
        parts = {component.name: _describe(component) for component in self.components}
        seed, blocks = self.config.seed, self.block_shards
        return {"seed": seed, "block_shards": blocks, "components": parts}

    def fingerprint(self) -> str:
        """Content address of the order."""
        return configs.fingerprint(self.description())


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What changed between two descriptions, one line per leaf."""
    lines: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{name}.")
        elif name not in old or name not in new:
            lines.append(f"{prefix}{name} {'is new' if name not in old else 'is gone'}")
        elif before != after:
            lines.append(f"{prefix}{name}: {before!r} -> {after!r}")
    return lines


def _describe(component: Component) -> dict[str, Any]:
    target = component.target
    return {
        "samples_per_step": component.config.samples_per_step,
        "target_share": component.config.target_share,
        "base": component.base.manifest.fingerprint(),
        "target": target.manifest.fingerprint() if target is not None else "",
    }

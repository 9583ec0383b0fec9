"""The mixture stream: a stateless map from stream positions to samples.

CONTRACT: the order of training samples is a pure function of (seed, mixture, stream position).
World size, number of workers and micro-batches only decide which process computes which part.
"""

import bisect
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from core import config as configs
from core.errors import ConfigError
from datamodules.mixture.config import ComponentConfig, MixtureConfig, ShareOf
from datamodules.mixture.curriculum import PhasedSchedule
from datamodules.mixture.schedule import EpochOrder, permutation
from datamodules.mixture.token_share import nearest_num_target_samples
from datamodules.shards.source import Source, check_parallel

DEFAULT_BLOCK_SHARDS = 64
_COUNT_CHUNK = 1 << 18
_BLOCKS_AHEAD = 2

CountLossTokens = Callable[[Source], np.ndarray]
"""Returns the number of loss tokens of each sample of a source, 0 for a bad one."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleLocations:
    """Component, source and index of the sample at each of several positions; parallel arrays."""

    component: np.ndarray
    is_target: np.ndarray
    """Whether the sample is read from the component's target source."""
    epoch: np.ndarray
    sample: np.ndarray
    phase: np.ndarray
    """Phase of the curriculum, 0 for a mixture without one."""

    def __getitem__(self, rows: slice) -> Self:
        """Return some of the locations, without copying them."""
        fields = dataclasses.fields(self)
        return type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OrderKey:
    """Settings that, together with its name, determine the order within a component."""

    seed: int
    block_shards: int


class Component:
    """A component of the mixture with its opened sources."""

    def __init__(
        self,
        name: str,
        config: ComponentConfig,
        key: OrderKey,
        open_source: Callable[[Path], Source],
    ) -> None:
        self.name, self.config = name, config
        self.base = open_source(Path(config.base))
        self.target = open_source(Path(config.target)) if config.target else None
        if self.target is not None:
            check_parallel(self.base, self.target)
        self._key = key
        self._language = permutation(len(self.base), key.seed, "language", name)
        self.num_target_samples: tuple[int, ...] = ()
        """Samples per epoch in the target language, by phase; -1 where the component is paused."""
        self._orders: dict[int, EpochOrder] = {}

    def __len__(self) -> int:
        """Return the number of samples in one epoch."""
        return len(self.base)

    def source(self, *, is_target: bool) -> Source:
        """Return the source that a sample is read from."""
        return self.target if is_target and self.target is not None else self.base

    def fix_shares(
        self, rates: Sequence[tuple[float, float]], count_loss_tokens: CountLossTokens | None
    ) -> None:
        """Set the number of target-language samples of each phase.

        Args:
            rates: Samples per step and share of the target language, by phase.
            count_loss_tokens: Counts the loss tokens of each sample of a source.

        Raises:
            ConfigError: If shares are in loss tokens and `count_loss_tokens` is None.
        """
        shares = [share for _, share in rates]
        if self.target is None or self.config.share_of is ShareOf.SAMPLES:
            num_target_samples = tuple(math.floor(share * len(self.base) + 0.5) for share in shares)
        elif count_loss_tokens is None:
            raise ConfigError(
                f"component '{self.name}' has share_of={self.config.share_of.value}, which needs "
                "the lengths of its samples; open the mixture with count_loss_tokens"
            )
        else:
            base_tokens, target_tokens = (
                count_loss_tokens(self.base),
                count_loss_tokens(self.target),
            )
            num_target_samples = nearest_num_target_samples(
                shares, self._language, base_tokens=base_tokens, target_tokens=target_tokens
            )
        resting = [not samples for samples, _ in rates]
        self.num_target_samples = tuple(
            -1 if r else n for r, n in zip(resting, num_target_samples, strict=True)
        )

    def used_sources(self) -> list[Source]:
        """Return the sources that the shares of any phase read from."""
        active = [number for number in self.num_target_samples if number >= 0]
        used = [self.base] if min(active) < len(self.base) else []
        return [*used, self.target] if self.target is not None and max(active) else used

    def in_target(self, samples: np.ndarray, phases: np.ndarray) -> np.ndarray:
        """Return whether each sample is read in the target language; the same in every epoch.

        The permuted index of a sample does not depend on the share, so the samples of a small share
        are a subset of those of a larger one, and every share sees the same images in the same
        order.
        """
        is_target: np.ndarray = (
            self._language(samples) < np.asarray(self.num_target_samples)[phases]
        )
        return is_target

    def samples_at(self, epochs: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Return the sample index at each (epoch, offset within the epoch)."""
        samples = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            samples[here] = self._order(int(epoch))(offsets[here])
        return samples

    def shards_at(self, index_in_component: int) -> tuple[list[int], int]:
        """Return the shards that a sample is drawn from, and the first index of the next block."""
        epoch, offset = divmod(index_in_component, len(self))
        order = self._order(epoch)
        block = order.block_of(offset)
        return order.shards_of(block), epoch * len(self) + order.end_of(block)

    def _order(self, epoch: int) -> EpochOrder:
        if epoch not in self._orders:
            while len(self._orders) > 1:
                self._orders.pop(next(iter(self._orders)))
            sizes, key = self.base.shard_sizes, self._key
            self._orders[epoch] = EpochOrder(sizes, key.block_shards, key.seed, self.name, epoch)
        return self._orders[epoch]


class MixtureStream:
    """The stream of a mixture; see the contract in the module docstring."""

    def __init__(
        self,
        config: MixtureConfig,
        *,
        block_shards: int = DEFAULT_BLOCK_SHARDS,
        open_source: Callable[[Path], Source] = Source,
        count_loss_tokens: CountLossTokens | None = None,
    ) -> None:
        """Open a mixture.

        Args:
            config: Configuration of the mixture.
            block_shards: Number of shards in a block; samples are shuffled within blocks.
            open_source: Opens the source of a manifest.
            count_loss_tokens: Counts the loss tokens of each sample of a source; required if any
                share is a share of loss tokens.

        Raises:
            ConfigError: If the configuration is invalid.
            DataError: If a source can't be used.
        """
        if block_shards < 1:
            raise ConfigError(f"block_shards={block_shards}, expected at least 1")
        self.config, self.block_shards = config, block_shards
        # Sorted, so that the order of components in the file does not matter.
        self.names = tuple(sorted(config.components))
        parts = [config.components[name] for name in self.names]
        starts = sorted({0, *(phase.from_step for part in parts for phase in part.phases)})
        rates = [[part.at(step) for step in starts] for part in parts]
        weights = [[samples for samples, _ in now] for now in zip(*rates, strict=True)]
        self.schedule = PhasedSchedule(starts, weights)
        key = OrderKey(seed=config.seed, block_shards=block_shards)
        self.components = tuple(
            Component(name, part, key, open_source)
            for name, part in zip(self.names, parts, strict=True)
        )
        for component, own in zip(self.components, rates, strict=True):
            component.fix_shares(own, count_loss_tokens)

    @property
    def samples_per_step(self) -> int:
        """Number of samples in one optimizer step, over all ranks."""
        return self.schedule.samples_per_step

    def locate(self, positions: np.ndarray) -> SampleLocations:
        """Locate the samples at stream positions (int64, in any order)."""
        positions = np.asarray(positions, dtype=np.int64)
        assigned, phases = self.schedule(positions), self.schedule.phase_of(positions)
        sizes = np.asarray([len(component) for component in self.components], dtype=np.int64)
        epochs, offsets = np.divmod(assigned.index_in_component, sizes[assigned.component])
        samples = np.empty_like(offsets)
        is_target = np.zeros(offsets.shape, dtype=bool)
        for c, component in enumerate(self.components):
            here = assigned.component == c
            samples[here] = component.samples_at(epochs[here], offsets[here])
            is_target[here] = component.in_target(samples[here], phases[here])
        return SampleLocations(
            component=assigned.component,
            is_target=is_target,
            epoch=epochs,
            sample=samples,
            phase=phases,
        )

    def prefetch(self, start: int, stop: int) -> None:
        """Fetch the remote shards of the positions [start, stop) in the background.

        Shards of the current blocks come first, then those of the next (see `ShardCache.prefetch`).
        """
        if not any(s.is_remote for part in self.components for s in part.used_sources()):
            return
        indices, ends = self.schedule.prefix_counts(start), self.schedule.prefix_counts(stop)
        for _ in range(_BLOCKS_AHEAD):
            for c, component in enumerate(self.components):
                if indices[c] < ends[c]:
                    shards, indices[c] = component.shards_at(int(indices[c]))
                    for source in component.used_sources():
                        source.prefetch(shards)

    def realised(self, start: int, stop: int) -> dict[str, int]:
        """Count the samples of each source at the positions [start, stop)."""
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
        """Return the number of epochs of each component in the first `num_steps` steps."""
        counts = self.schedule.prefix_counts(num_steps * self.samples_per_step)
        return {c.name: int(n) / len(c) for c, n in zip(self.components, counts, strict=True)}

    def check_epochs(self, num_steps: int) -> None:
        """Check that no component exceeds `max_epochs`, and that every phase begins.

        Raises:
            ConfigError: If one does, or a phase never begins; the message names a valid number of
                steps.
        """
        if (last := self.schedule.start_steps[-1]) >= num_steps:
            raise ConfigError(
                f"the phase from step {last} never begins in {num_steps} steps; train for more "
                f"than {last} steps or remove the phase"
            )
        for c, (component, epochs) in enumerate(
            zip(self.components, self.epochs(num_steps).values(), strict=True)
        ):
            allowed = component.config.max_epochs
            if epochs > allowed:
                possible = self._steps_within(c, allowed * len(component), num_steps)
                raise ConfigError(
                    f"component '{component.name}' ({len(component)} samples) would be repeated "
                    f"{epochs:.2f} times in {num_steps} steps, max_epochs={allowed:g}; train for "
                    f"at most {possible} steps, lower samples_per_step or raise max_epochs"
                )

    def _steps_within(self, c: int, num_samples: float, num_steps: int) -> int:
        """Return the most steps that use at most `num_samples` samples of component c."""

        def count_samples(step: int) -> int:
            return int(self.schedule.prefix_counts(step * self.samples_per_step)[c])

        return bisect.bisect_right(range(num_steps), num_samples, key=count_samples) - 1

    def description(self) -> dict[str, Any]:
        """Return everything that the order depends on, as JSON types."""
        parts = {component.name: _describe_component(component) for component in self.components}
        seed, blocks = self.config.seed, self.block_shards
        return {"seed": seed, "block_shards": blocks, "components": parts}

    def fingerprint(self) -> str:
        """Return the content address of the order."""
        return configs.fingerprint(self.description())


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the differences between two descriptions, one line per leaf."""
    lines: list[str] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{name}.")
        elif name not in old or name not in new:
            lines.append(f"{prefix}{name} {'was added' if name not in old else 'was removed'}")
        elif before != after:
            lines.append(f"{prefix}{name}: {before!r} -> {after!r}")
    return lines


def _describe_component(component: Component) -> dict[str, Any]:
    config, target = component.config, component.target
    described: dict[str, Any] = {
        "samples_per_step": config.samples_per_step,
        "target_share": config.target_share,
        "base": component.base.manifest.fingerprint(),
        "target": target.manifest.fingerprint() if target is not None else "",
    }
    # Listed only if used, so that the description of a mixture without them stays the same.
    if config.phases:
        described["phases"] = configs.to_plain(config.phases)
    if config.share_of is not ShareOf.SAMPLES:
        described["share_of"] = config.share_of.value
        described["num_target_samples"] = list(component.num_target_samples)
    return described

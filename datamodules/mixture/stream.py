"""The mixture stream: a stateless map from stream positions to samples.

CONTRACT: the order of training samples is a pure function of (seed, mixture, stream position).
World size, number of workers and micro-batches only decide which process computes which part.
"""

import bisect
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from core import config as configs
from core.errors import ConfigError
from datamodules.mixture.component import (
    Component,
    CountLossTokens,
    OrderKey,
    describe_component,
)
from datamodules.mixture.config import MixtureConfig
from datamodules.mixture.curriculum import mixture_schedule
from datamodules.mixture.target_samples import plan_numbers
from datamodules.shards.source import Source

DEFAULT_BLOCK_SHARDS = 64
_COUNT_CHUNK = 1 << 18
_BLOCKS_AHEAD = 2


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
        self.schedule = mixture_schedule(config)
        rates = [[part.at(step) for step in self.schedule.start_steps] for part in parts]
        key = OrderKey(seed=config.seed, block_shards=block_shards)
        self.components = tuple(
            Component(name, part, key, open_source)
            for name, part in zip(self.names, parts, strict=True)
        )
        sizes = {component.name: len(component) for component in self.components}
        planned = plan_numbers(config, self.schedule, sizes)
        for component, own in zip(self.components, rates, strict=True):
            component.fix_shares(own, count_loss_tokens)
            if component.name in planned:
                component.fix_number(own, planned[component.name])

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
        parts = {component.name: describe_component(component) for component in self.components}
        seed, blocks = self.config.seed, self.block_shards
        described = {"seed": seed, "block_shards": blocks, "components": parts}
        # Listed only if used, so that the description of a mixture without it stays the same.
        if self.config.target_samples is not None:
            described["target_samples"] = configs.to_plain(self.config.target_samples)
        return described

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

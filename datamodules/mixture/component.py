"""One component of a mixture: its sources, the order of its samples and their languages.

Separate from `stream`, which assigns stream positions to the components.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from core import config as configs
from core.errors import ConfigError
from datamodules.mixture.config import ComponentConfig, ShareOf
from datamodules.mixture.schedule import EpochOrder, round_permutation
from datamodules.mixture.target_samples import PlannedNumber, index_limit
from datamodules.mixture.token_share import nearest_num_target_samples
from datamodules.shards.source import Source, check_parallel

CountLossTokens = Callable[[Source], np.ndarray]
"""Returns the number of loss tokens of each sample of a source, 0 for a bad one."""


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
        self._language = round_permutation(len(self.base), self.base.num_rounds, key.seed, name)
        self._kept: np.ndarray | None = None
        self._shard_sizes = self.base.shard_sizes
        self.num_target_samples: tuple[int, ...] = ()
        """Samples per epoch in the target language, by phase; -1 where the component is paused."""
        self._planned_share: float | None = None
        self._orders: dict[int, EpochOrder] = {}

    def __len__(self) -> int:
        """Return the number of samples in one epoch."""
        return len(self.base) if self._kept is None else len(self._kept)

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
            num_target_samples = tuple(math.floor(share * len(self) + 0.5) for share in shares)
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
        self._set_num_target_samples(rates, num_target_samples)

    def fix_number(self, rates: Sequence[tuple[float, float]], planned: PlannedNumber) -> None:
        """Set the number of different samples that a stage reads in the target language.

        Args:
            rates: Samples per step and share of the target language, by phase.
            planned: The number and what the stage serves.
        """
        if planned.num_base is not None:
            self._keep(planned.number, planned.num_base)
        limit, self._planned_share = planned.number, planned.share
        if planned.num_served < len(self):  # samples that the stage never reads must not count
            first = np.arange(planned.num_served)
            permuted = self._language(self.samples_at(np.zeros_like(first), first))
            limit = index_limit(planned.number, permuted, len(self))
        self._set_num_target_samples(rates, [limit] * len(rates))

    def _keep(self, num_target: int, num_base: int) -> None:
        """Use only the samples with the lowest and highest permuted indices: one set per language.

        Therefore, a number of samples in one language selects the same samples whatever the number
        in the other one, and the samples of a smaller number are a subset of those of a larger one.
        """
        permuted, size = self._language(np.arange(len(self.base))), len(self.base)
        self._kept = np.flatnonzero((permuted < num_target) | (permuted >= size - num_base))
        shards = self.base.shards_of(self._kept)
        self._shard_sizes = np.bincount(shards, minlength=len(self.base.shard_sizes))

    def configured_share(self, step: int) -> float:
        """Return the share of the target language that the configuration means at a step."""
        return self.config.at(step)[1] if self._planned_share is None else self._planned_share

    def _set_num_target_samples(
        self, rates: Sequence[tuple[float, float]], numbers: Sequence[int]
    ) -> None:
        resting = [not samples for samples, _ in rates]
        self.num_target_samples = tuple(
            -1 if r else n for r, n in zip(resting, numbers, strict=True)
        )

    def used_sources(self) -> list[Source]:
        """Return the sources that the shares of any phase read from."""
        active = [number for number in self.num_target_samples if number >= 0]
        used = [self.base] if min(active) < len(self) else []
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
        return samples if self._kept is None else self._kept[samples]

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
            sizes, key = self._shard_sizes, self._key
            self._orders[epoch] = EpochOrder(sizes, key.block_shards, key.seed, self.name, epoch)
        return self._orders[epoch]


def describe_component(component: Component) -> dict[str, Any]:
    """Return everything that the order of a component depends on, as JSON types."""
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

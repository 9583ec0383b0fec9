"""The LightningDataModule of every training stage: a mixture stream and its train loader."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from core.chat.format import ChatFormat, PromptStyle
from core.config import EXECUTION_ONLY
from core.errors import CheckpointError, ConfigError, DataError
from core.process.log import get_logger
from core.samples import StepBatch
from datamodules.batches.accounting import check_prediction, log_token_shares
from datamodules.batches.feature_cache import FeatureCache
from datamodules.batches.lengths import LONGER, SourceLengths, leave_out_longer, measure_lengths
from datamodules.batches.packing import check_lengths
from datamodules.batches.step_dataset import StepData, StepDataset, Transform
from datamodules.batches.stream_accounts import StreamAccounts
from datamodules.mixture.config import MixtureConfig
from datamodules.mixture.stream import DEFAULT_BLOCK_SHARDS, MixtureStream, differences
from datamodules.shards.source import Source

_LOG = get_logger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """The data of one stage and how they are batched."""

    mixture: MixtureConfig
    prompt_style: PromptStyle = PromptStyle.CHAT
    """How a record becomes a token sequence."""
    micro_batch_tokens: int = 8192
    """Most tokens of one forward pass, padding included; memory decides it, results do not."""
    row_tokens: int = 256
    """Tokens that a packed row aims at; no sample may be longer."""
    num_workers: int = dataclasses.field(default=0, metadata=EXECUTION_ONLY)
    """Loader processes; 0 reads in the training process."""
    feature_noise_std: float = 0.0
    """Gaussian noise on cached features, the cache's only augmentation."""
    max_bad_fraction: float = 0.01
    """Fail when more of a source's samples than this turn out broken."""
    block_shards: int = DEFAULT_BLOCK_SHARDS
    """Samples are shuffled inside blocks of so many shards."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        check_lengths(np.zeros(0, dtype=np.int64), self.micro_batch_tokens, self.row_tokens)
        if self.num_workers < 0:
            raise ConfigError(f"num_workers={self.num_workers}, expected 0 or more")
        if self.feature_noise_std < 0:
            raise ConfigError(f"feature_noise_std={self.feature_noise_std}, expected 0 or more")
        if not 0.0 <= self.max_bad_fraction < 1.0:
            raise ConfigError(f"max_bad_fraction={self.max_bad_fraction}, expected within 0..1")


class MixtureDataModule(LightningDataModule):
    """Owns sources, lengths and the train loader of one stage.

    The data state is the global step: the loader starts at `trainer.global_step`, and a checkpoint
    only carries what the order depends on, to refuse another one.
    """

    def __init__(  # noqa: PLR0913 - runtime objects by name; what can be configured is in `config`
        self,
        config: StreamConfig,
        *,
        chat: ChatFormat,
        num_steps: int,
        cache_dir: Path,
        features: FeatureCache | None = None,
        transform: Transform | None = None,
        allow_data_change: bool = False,
        ledger_dir: Path | None = None,
    ) -> None:
        super().__init__()
        self.config, self.chat, self.num_steps = config, chat, num_steps
        self.prompt_style = config.prompt_style
        self.features, self.transform = features, transform
        self.allow_data_change = allow_data_change
        """Take up a checkpoint of another data stream with a warning instead of an error."""
        self._ledger_dir = ledger_dir
        self._lengths_dir = cache_dir / "lengths"
        self._data: StepData | None = None
        self._accounts: StreamAccounts | None = None

    @classmethod
    def of(cls, trainer: Trainer) -> Self:
        """Return the data module of a running trainer."""
        module = trainer.datamodule  # type: ignore[attr-defined]  # set by fit()
        if not isinstance(module, cls):
            raise TypeError(f"the trainer's data module is {module!r}, expected {cls.__name__}")
        return module

    def prepare_data(self) -> None:
        """Measure lengths once per node, so that the other ranks only read them."""
        for source in _used_sources(self._open_stream()).values():
            self._measure(source)

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - Lightning's hook
        """Open the sources and check all that can be checked before the first step.

        Raises:
            ConfigError, DataError: with the source and the fix.
        """
        if self._data is not None:
            return
        stream = self._open_stream()
        stream.check_epochs(self.num_steps)
        check_prediction(stream, self.num_steps)
        sources = _used_sources(stream)
        lengths = {name: self._measure(source) for name, source in sources.items()}
        # The longest first: its message names the row_tokens that would do for all.
        for name in sorted(lengths, key=lambda name: -lengths[name].longest):
            self._check_source(name, lengths[name])
        self._check_images(list(sources.values()))
        log_token_shares(stream)
        self._accounts = StreamAccounts(
            stream,
            lengths,
            num_steps=self.num_steps,
            max_bad_fraction=self.config.max_bad_fraction,
            ledger_dir=self._ledger_dir,
        )
        self._data = StepData(
            stream=stream,
            lengths=lengths,
            chat=self.chat,
            prompt_style=self.prompt_style,
            micro_batch_tokens=self.config.micro_batch_tokens,
            row_tokens=self.config.row_tokens,
            features=self.features,
            transform=self.transform,
            feature_noise_std=self.config.feature_noise_std,
        )

    @property
    def data(self) -> StepData:
        """Everything the stream is made of (set up on first use)."""
        self.setup()
        if self._data is None:
            raise RuntimeError("setup() left no data")
        return self._data

    @property
    def stream(self) -> MixtureStream:
        """The mixture stream."""
        return self.data.stream

    @property
    def accounts(self) -> StreamAccounts:
        """Counts of consumed and bad samples (set up on first use)."""
        self.setup()
        if self._accounts is None:
            raise RuntimeError("setup() opened no accounts")
        return self._accounts

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """The steps from the trainer's global step on; one item is one optimizer step."""
        trainer = self.trainer
        step = trainer.global_step if trainer is not None else 0
        rank = trainer.global_rank if trainer is not None else 0
        self.accounts.begin_attempt(step, rank)
        dataset = StepDataset(
            self.data,
            num_steps=self.num_steps,
            start_step=step,
            rank=rank,
            world_size=trainer.world_size if trainer is not None else 1,
        )
        if self.config.num_workers > 0:
            # The tokenizer's threads do not survive a fork; the workers are the parallelism.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        workers = self.config.num_workers
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            collate_fn=_unchanged,
            # A stage run comes from a fork server, whose children would import everything anew.
            multiprocessing_context="fork" if workers else None,
        )

    def state_dict(self) -> dict[str, Any]:
        """What the order depends on, as JSON types, and what was counted so far."""
        step = self.trainer.global_step if self.trainer is not None else 0
        return {
            "fingerprint": self.stream.fingerprint(),
            "order": self._order(),
            "realised": self.accounts.state(step),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint belongs to this very stream.

        Raises:
            CheckpointError: with every difference, unless `allow_data_change`.
        """
        changed = "; ".join(differences(state_dict["order"], self._order()))
        if not changed:
            if "realised" in state_dict:  # else they are counted anew
                self.accounts.restore(state_dict["realised"])
            return
        if not self.allow_data_change:
            raise CheckpointError(
                "the checkpoint was trained on another data stream; continuing would repeat or "
                f"skip samples. Changed: {changed}. Undo the change, start anew, or insist with "
                "--allow-data-change (trainer.allow_data_change)"
            )
        _LOG.warning(
            "the checkpoint was trained on another data stream and goes on with this one, as "
            "allow_data_change says: samples may be repeated or skipped. Changed: %s",
            changed,
        )

    def _order(self) -> dict[str, Any]:
        style, noise = self.prompt_style.value, self.config.feature_noise_std
        return {**self.stream.description(), "prompt_style": style, "feature_noise_std": noise}

    def _open_stream(self) -> MixtureStream:
        return MixtureStream(
            self.config.mixture,
            block_shards=self.config.block_shards,
            count_loss_tokens=lambda source: self._measure(source).num_loss_tokens,
        )

    def _measure(self, source: Source) -> SourceLengths:
        lengths = measure_lengths(source, self.chat, self.prompt_style, self._lengths_dir)
        return leave_out_longer(lengths, source, self.config.row_tokens)

    def _check_source(self, name: str, lengths: SourceLengths) -> None:
        """Hold what is known to be bad against the budget.

        Raises:
            DataError: with the first sample, and the row length that would do if that is why.
        """
        num_bad, num_samples = len(lengths.faults), len(lengths.num_tokens)
        num_longer = sum(error.fault == LONGER for error in lengths.faults.values())
        too_long = (
            f"{num_longer} of {num_samples} samples are longer than row_tokens="
            f"{self.config.row_tokens}, the longest has {lengths.longest} tokens"
        )
        if num_bad > self.config.max_bad_fraction * num_samples:
            first = next(iter(lengths.faults.values()))
            why = (
                f"{too_long}: raise row_tokens or remove them"
                if num_longer
                else f"the first one: {first}"
            )
            raise DataError(
                f"source '{name}': {num_bad} of {num_samples} samples are bad, more than "
                f"max_bad_fraction={self.config.max_bad_fraction:g} allows: {why}"
            )
        if num_longer:
            _LOG.warning("source '%s': %s; they are left out", name, too_long)

    def _check_images(self, sources: list[Source]) -> None:
        if not any(source.has_images for source in sources):
            return
        if self.features is None and self.transform is None:
            raise ConfigError("the mixture has images; give a feature cache or a transform")
        if self.features is None and self.config.feature_noise_std > 0:
            raise ConfigError(
                f"feature_noise_std={self.config.feature_noise_std} needs a feature cache; set 0"
            )
        expected = self.chat.num_image_tokens
        if self.features is not None and self.features.num_image_tokens != expected:
            raise ConfigError(
                f"feature cache {self.features.folder} has {self.features.num_image_tokens} visual "
                f"tokens per image, the chat format expects {expected}; build the cache again"
            )


def _used_sources(stream: MixtureStream) -> dict[str, Source]:
    """The sources to read from, by name."""
    used: dict[str, Source] = {}
    for component in stream.components:
        for source in component.used_sources():
            other = used.setdefault(source.name, source)
            if other.manifest.fingerprint() != source.manifest.fingerprint():
                raise ConfigError(
                    f"manifests {other.path} and {source.path} both call their source "
                    f"'{source.name}'; give one another name"
                )
    return used


def _unchanged(item: Any) -> Any:
    return item

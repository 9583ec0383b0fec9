"""LightningDataModule of every training stage: a mixture stream and its train dataloader."""

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
from core.process.machine import raise_open_files_limit, read_shared_memory
from core.samples import StepBatch
from datamodules.batches.accounting import check_prediction, log_token_shares
from datamodules.batches.collate import PADDED_ROWS, JoinImages, RowLayout
from datamodules.batches.feature_cache import FeatureCache
from datamodules.batches.lengths import SourceLengths, describe_excess, measure_lengths
from datamodules.batches.packing import check_lengths
from datamodules.batches.shared_memory import PREPARED_STEPS, LoaderDemand, estimate_step_bytes
from datamodules.batches.step_dataset import StepData, StepDataset, Transform
from datamodules.batches.stream_accounts import StreamAccounts
from datamodules.mixture.config import MixtureConfig
from datamodules.mixture.stream import DEFAULT_BLOCK_SHARDS, MixtureStream, differences
from datamodules.shards.source import Source

_LOG = get_logger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StreamConfig:
    """Data of one training stage, and how it is batched."""

    mixture: MixtureConfig
    prompt_style: PromptStyle = PromptStyle.CHAT
    """How a record becomes a token sequence."""
    micro_batch_tokens: int = 8192
    """Maximum tokens of one forward pass, including padding; affects memory, not results."""
    row_tokens: int = 256
    """Target length of a packed row in tokens; longer samples are bad samples."""
    num_workers: int = dataclasses.field(default=0, metadata=EXECUTION_ONLY)
    """Number of loader processes; 0 loads in the training process."""
    feature_noise_std: float = 0.0
    """Standard deviation of Gaussian noise on cached features, their only augmentation."""
    max_bad_fraction: float = 0.01
    """Abort when more than this fraction of a source's samples are bad."""
    block_shards: int = DEFAULT_BLOCK_SHARDS
    """Number of shards in a block; samples are shuffled within blocks."""

    def __post_init__(self) -> None:
        """Validate everything that does not require the data."""
        check_lengths(np.zeros(0, dtype=np.int64), self.micro_batch_tokens, self.row_tokens)
        if self.num_workers < 0:
            raise ConfigError(f"num_workers={self.num_workers}, expected 0 or more")
        if self.feature_noise_std < 0:
            raise ConfigError(f"feature_noise_std={self.feature_noise_std}, expected 0 or more")
        if not 0.0 <= self.max_bad_fraction < 1.0:
            raise ConfigError(f"max_bad_fraction={self.max_bad_fraction}, expected within 0..1")


class MixtureDataModule(LightningDataModule):
    """Sources, lengths and train dataloader of one training stage.

    The state of the data is the global step: the loader starts at `trainer.global_step`, and a
    checkpoint only stores what the order depends on, so that a different order is rejected.
    """

    def __init__(  # noqa: PLR0913 - runtime objects; all settings are in `config`
        self,
        config: StreamConfig,
        *,
        chat: ChatFormat,
        num_steps: int,
        cache_dir: Path,
        features: FeatureCache | None = None,
        transform: Transform | None = None,
        layout: RowLayout = PADDED_ROWS,
        join_images: JoinImages | None = None,
        allow_data_change: bool = False,
        ledger_dir: Path | None = None,
    ) -> None:
        super().__init__()
        self.config, self.chat, self.num_steps = config, chat, num_steps
        self.prompt_style = config.prompt_style
        self.features, self.transform, self.layout = features, transform, layout
        self.join_images = join_images
        self.allow_data_change = allow_data_change
        """Load a checkpoint of a different data stream with a warning instead of an error."""
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

    def source_languages(self) -> dict[str, str]:
        """Return the language of every source that the stream reads from, by name."""
        return {name: source.language for name, source in _used_sources(self.stream).items()}

    def prepare_data(self) -> None:
        """Measure lengths once per node, so that the other ranks only load them."""
        for source in _used_sources(self._open_stream()).values():
            self._measure(source)

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002 - Lightning's hook
        """Open the sources and check everything that can be checked before the first step.

        Raises:
            ConfigError: If the configuration does not fit the data.
            DataError: If a source can't be used.
        """
        if self._data is not None:
            return
        stream = self._open_stream()
        check_stream(stream, self.num_steps)
        sources = _used_sources(stream)
        lengths = {name: self._measure(source) for name, source in sources.items()}
        self._check_sources(lengths)
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
            layout=self.layout,
            join_images=self.join_images,
        )

    @property
    def data(self) -> StepData:
        """Everything that batches are computed from (set up on first use)."""
        self.setup()
        if self._data is None:
            raise RuntimeError("setup() did not create the data")
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
            raise RuntimeError("setup() did not create the accounts")
        return self._accounts

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Return the dataloader from the trainer's global step on; one item is one step."""
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
        workers = self.config.num_workers
        if workers > 0:
            # The tokenizer's threads do not survive a fork; the workers provide the parallelism.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            raise_open_files_limit()
            self._check_shared_memory(dataset)
        return DataLoader(
            dataset,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=PREPARED_STEPS if workers else None,
            collate_fn=_identity,
            # A stage runs in a child of a fork server, which would re-import everything in workers.
            multiprocessing_context="fork" if workers else None,
        )

    def _check_shared_memory(self, dataset: StepDataset) -> None:
        """Check that /dev/shm can hold the prepared steps of all ranks of this node.

        Raises:
            ConfigError: If it is too small.
        """
        memory = read_shared_memory()
        if memory is None or dataset.start_step >= self.num_steps:
            return
        LoaderDemand(
            step_bytes=estimate_step_bytes(dataset, dataset.start_step),
            num_workers=self.config.num_workers,
            num_ranks=self.trainer.num_devices if self.trainer is not None else 1,
        ).check(memory)

    def state_dict(self) -> dict[str, Any]:
        """Return what the order depends on and the counts so far, as JSON types."""
        step = self.trainer.global_step if self.trainer is not None else 0
        return {
            "fingerprint": self.stream.fingerprint(),
            "order": self._order(),
            "realised": self.accounts.state(step),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the checkpoint belongs to this stream, and restore its counts.

        Raises:
            CheckpointError: If it does not, unless `allow_data_change` is set; the message lists
                every difference.
        """
        changed = "; ".join(differences(state_dict["order"], self._order()))
        if not changed:
            if "realised" in state_dict:  # otherwise they are recounted
                self.accounts.restore(state_dict["realised"])
            return
        if not self.allow_data_change:
            raise CheckpointError(
                "the checkpoint was trained on a different data stream; resuming would repeat or "
                f"skip samples. Changed: {changed}. Revert the change, restart the stage, or pass "
                "--allow-data-change (trainer.allow_data_change)"
            )
        _LOG.warning(
            "resuming a checkpoint of a different data stream because allow_data_change is set: "
            "samples may be repeated or skipped. Changed: %s",
            changed,
        )

    def _order(self) -> dict[str, Any]:
        style, noise = self.prompt_style.value, self.config.feature_noise_std
        return {**self.stream.description(), "prompt_style": style, "feature_noise_std": noise}

    def _open_stream(self) -> MixtureStream:
        return MixtureStream(
            self.config.mixture,
            block_shards=self.config.block_shards,
            count_loss_tokens=lambda source: self._measure(source).loss_tokens_of(slice(None)),
        )

    def _measure(self, source: Source) -> SourceLengths:
        lengths = measure_lengths(source, self.chat, self.prompt_style, self._lengths_dir)
        return dataclasses.replace(lengths, row_tokens=self.config.row_tokens)

    def _check_sources(self, lengths: dict[str, SourceLengths]) -> None:
        """Check the samples that are known to be bad against the budget.

        Raises:
            DataError: If a source has too many; the message names all such sources, with an example
                or the row length that would be enough.
        """
        allowed = self.config.max_bad_fraction
        # Longest first: the first number is a value of row_tokens that is enough for all sources.
        names = sorted(lengths, key=lambda name: -lengths[name].longest)
        problems = [
            problem
            for name in names
            if (problem := describe_excess(name, lengths[name], max_bad_fraction=allowed))
        ]
        if problems:
            raise DataError("; ".join(problems))
        for name in names:
            if num_longer := lengths[name].count_longer():
                _LOG.warning(
                    "source '%s': %d of %d samples are longer than row_tokens=%d, the longest has "
                    "%d tokens; they are skipped",
                    *(name, num_longer, len(lengths[name].num_tokens), self.config.row_tokens),
                    lengths[name].longest,
                )

    def _check_images(self, sources: list[Source]) -> None:
        if not any(source.has_images for source in sources):
            return
        if self.features is None and self.transform is None:
            raise ConfigError("the mixture has images; pass a feature cache or a transform")
        check_feature_noise(self.config, is_cached=self.features is not None)


def check_feature_noise(config: StreamConfig, *, is_cached: bool) -> None:
    """Check that noise on features has features to be added to.

    Args:
        config: Configuration of the stream.
        is_cached: Whether the features of its images are in a cache.

    Raises:
        ConfigError: If they are not and noise is set.
    """
    if not is_cached and config.feature_noise_std > 0:
        raise ConfigError(
            f"feature_noise_std={config.feature_noise_std} needs a feature cache; set it to 0"
        )


def check_stream(stream: MixtureStream, num_steps: int) -> None:
    """Check everything about a stream that needs neither lengths nor samples.

    Raises:
        ConfigError: If a component would be repeated too often, a phase never begins, or two
            manifests name their source alike.
    """
    stream.check_epochs(num_steps)
    check_prediction(stream, num_steps)
    _used_sources(stream)


def _used_sources(stream: MixtureStream) -> dict[str, Source]:
    """Return the sources that the stream reads from, by name."""
    used: dict[str, Source] = {}
    for component in stream.components:
        for source in component.used_sources():
            other = used.setdefault(source.name, source)
            if other.manifest.fingerprint() != source.manifest.fingerprint():
                raise ConfigError(
                    f"manifests {other.path} and {source.path} both name their source "
                    f"'{source.name}'; rename one of them"
                )
    return used


def _identity(item: Any) -> Any:
    return item

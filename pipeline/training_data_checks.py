"""Checks of the data of all trainings of a grid, before the first of them starts.

Without these checks each stage would report the faults of its own data, one failed command after
the other, and the last stage only once the others are trained.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from core.chat.format import ChatFormat
from core.errors import ConfigError, DataError
from core.process.log import get_logger
from datamodules.batches.lengths import (
    SourceLengths,
    are_measured,
    describe_excess,
    measure_lengths,
)
from datamodules.mixture.component import CountLossTokens
from datamodules.mixture.config import ShareOf
from datamodules.mixture.stream import MixtureStream
from datamodules.mixture_datamodule import StreamConfig, check_feature_noise, check_stream
from datamodules.shards.source import Source
from pipeline.graph import Graph, StageNode
from pipeline.stages.pretrain import PretrainStage
from pipeline.stages.training import TrainingStage, mixture_manifests
from pipeline.store.store import Store
from planner.encoding import chat_of

_LOG = get_logger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Excess:
    """A source with too many samples that a kind of stage can't use."""

    kind: str
    description: str
    longest: int
    """Number of tokens of its longest sample; 0 if its samples are bad for other reasons."""


def check_training_data(graph: Graph, store: Store) -> None:
    """Check the data of all trainings of a graph that are not done.

    Lengths are cached where the trainings look for them. Sources that are not here yet are left to
    the trainings, and so are the lengths of remote ones that were not measured beforehand.

    Raises:
        ConfigError: If the configuration of a training does not fit its data.
        DataError: If sources are not parallel, or have too many samples that are longer than a row
            or otherwise bad; the message names all of the latter and the settings that are enough.
    """
    sources = _MeasuredSources(store.root / "cache" / "lengths")
    trainings = list[TrainingStage]()
    for node in graph.nodes.values():
        if store.folder(node.kind, node.address).result.is_dir():
            continue
        if isinstance(node.stage, TrainingStage | PretrainStage):
            _check_stream(node, node.stage, sources)
        if isinstance(node.stage, TrainingStage):
            trainings.append(node.stage)
    _check_row_lengths(trainings, sources)


def settings_for_rows(graph: Graph, lengths_folder: Path) -> list[str]:
    """Return the overrides with which the samples of all trainings fit into rows.

    Args:
        graph: The trainings; whether they are done makes no difference.
        lengths_folder: Folder of measured lengths.
    """
    stages = [one.stage for one in graph.nodes.values() if isinstance(one.stage, TrainingStage)]
    found = dict.fromkeys(_excesses(stages, _MeasuredSources(lengths_folder)))
    return _sufficient_settings(stages, list(found))


def _check_stream(
    node: StageNode, stage: TrainingStage | PretrainStage, sources: "_MeasuredSources"
) -> None:
    """Open the stream of a training as the training does."""
    mixture = stage.stream.mixture
    manifests = mixture_manifests(mixture)
    if not all(Path(path).exists() for path in manifests):
        return
    count: CountLossTokens | None = None
    if any(part.share_of is ShareOf.LOSS_TOKENS for part in mixture.components.values()):
        if not isinstance(stage, TrainingStage):
            raise TypeError(f"{node.title}: shares of loss tokens need a chat format")
        counts = sources.loss_tokens(manifests, stage)
        if counts is None:
            return
        count = counts.__getitem__
    try:
        stream = MixtureStream(
            mixture,
            block_shards=stage.stream.block_shards,
            open_source=sources.open,
            count_loss_tokens=count,
        )
        check_stream(stream, stage.num_steps)
        if any(source.has_images for part in stream.components for source in part.used_sources()):
            check_feature_noise(stage.stream, is_cached=not node.has_tower)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{node.title}: {error}") from error


def _check_row_lengths(stages: Sequence[TrainingStage], sources: "_MeasuredSources") -> None:
    found = list(dict.fromkeys(_excesses(stages, sources)))
    if not found:
        return
    text = "; ".join(f"{one.kind}: {one.description}" for one in found)
    settings = _sufficient_settings(stages, found)
    advice = f". Enough for all: --set {' '.join(settings)}" if settings else ""
    raise DataError(f"the training data do not fit: {text}{advice}")


def _excesses(stages: Sequence[TrainingStage], sources: "_MeasuredSources") -> Iterator[_Excess]:
    for stage in stages:
        for path in stage.stream.mixture.used_manifests():
            known = sources.find(path, stage)
            excess = None if known is None else _describe(*known, stage.stream, stage.kind)
            if excess is not None:
                yield excess


def _describe(
    source: Source, lengths: SourceLengths, stream: StreamConfig, kind: str
) -> _Excess | None:
    usable = dataclasses.replace(lengths, row_tokens=stream.row_tokens)
    description = describe_excess(source.name, usable, max_bad_fraction=stream.max_bad_fraction)
    if description is None:
        return None
    longest = lengths.longest if usable.count_longer() else 0
    return _Excess(kind=kind, description=description, longest=longest)


def _sufficient_settings(stages: Sequence[TrainingStage], found: list[_Excess]) -> list[str]:
    """Return the overrides with which no sample is longer than a row."""
    settings = []
    for kind in dict.fromkeys(one.kind for one in found):
        needed = max(one.longest for one in found if one.kind == kind)
        if not needed:
            continue
        settings.append(f"{kind}.row_tokens={needed}")
        budgets = [stage.stream.micro_batch_tokens for stage in stages if stage.kind == kind]
        if min(budgets) < needed:
            settings.append(f"{kind}.micro_batch_tokens={needed}")
    return settings


class _MeasuredSources:
    """Sources and their lengths, measured once per chat format and prompt style."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[Path, Source] = {}
        self._known: dict[object, tuple[Source, SourceLengths] | None] = {}

    def open(self, path: Path) -> Source:
        """Return the source of a manifest, which is verified once."""
        if path not in self._opened:
            self._opened[path] = Source(path)
        return self._opened[path]

    def find(self, path: str, stage: TrainingStage) -> tuple[Source, SourceLengths] | None:
        """Return a source and its lengths for a stage; None if they can't be known here."""
        model, style = stage.model, stage.stream.prompt_style
        key = (path, model.encoding, style)
        if key not in self._known:
            self._known[key] = self._measure(Path(path), stage)
        return self._known[key]

    def loss_tokens(
        self, paths: Sequence[str], stage: TrainingStage
    ) -> dict[Source, np.ndarray] | None:
        """Return the loss tokens of the samples of sources; None if they can't be known here."""
        counts = dict[Source, np.ndarray]()
        for path in paths:
            if (known := self.find(path, stage)) is None:
                return None
            source, lengths = known
            usable = dataclasses.replace(lengths, row_tokens=stage.stream.row_tokens)
            counts[source] = usable.loss_tokens_of(slice(None))
        return counts

    def _measure(self, path: Path, stage: TrainingStage) -> tuple[Source, SourceLengths] | None:
        style = stage.stream.prompt_style
        try:
            chat: ChatFormat = chat_of(stage.model)
        except ConfigError:
            return None  # the training needs the tokenizer, too, and reports what is missing
        if not path.exists():
            return None
        source = self.open(path)
        if source.is_remote and not are_measured(source, chat, style, self._folder):
            _LOG.info("%s is remote: its row lengths are checked when its training starts", path)
            return None
        return source, measure_lengths(source, chat, style, self._folder)

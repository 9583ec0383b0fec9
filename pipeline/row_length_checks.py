"""Check of the row lengths of all trainings of a grid, before the first of them starts.

Samples are never truncated. Without this check each stage would report its own sources, one failed
command after the other.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from core.chat.format import ChatFormat
from core.errors import ConfigError, DataError
from core.process.log import get_logger
from datamodules.batches.lengths import (
    SourceLengths,
    are_measured,
    describe_excess,
    measure_lengths,
)
from datamodules.mixture_datamodule import StreamConfig
from datamodules.shards.source import Source
from pipeline.graph import Graph
from pipeline.stages.training import TrainingStage
from pipeline.store.store import Store
from planner.workload import chat_of

_LOG = get_logger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Excess:
    """A source with too many samples that a kind of stage can't use."""

    kind: str
    description: str
    longest: int
    """Number of tokens of its longest sample; 0 if its samples are bad for other reasons."""


def check_row_lengths(graph: Graph, store: Store) -> None:
    """Check the samples of all trainings of a graph that are not done.

    The lengths are cached where the trainings look for them. Sources that are not here yet, and
    remote ones whose lengths were not measured beforehand, are left to the trainings.

    Raises:
        DataError: If sources have too many samples that are longer than a row or otherwise bad; the
            message names all of them and the settings that are enough.
    """
    found = list(dict.fromkeys(_excesses(graph, store)))
    if not found:
        return
    text = "; ".join(f"{one.kind}: {one.description}" for one in found)
    settings = _sufficient_settings(graph, found)
    advice = f". Enough for all: --set {' '.join(settings)}" if settings else ""
    raise DataError(f"the training data do not fit: {text}{advice}")


def _excesses(graph: Graph, store: Store) -> Iterator[_Excess]:
    measured = _MeasuredSources(store.root / "cache" / "lengths")
    for node in graph.nodes.values():
        stage = node.stage
        is_done = store.folder(node.kind, node.address).result.is_dir()
        if is_done or not isinstance(stage, TrainingStage):
            continue
        for component in stage.stream.mixture.components.values():
            for path in component.used_manifests():
                known = measured.find(path, stage)
                excess = None if known is None else _describe(*known, stage.stream, node.kind)
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


def _sufficient_settings(graph: Graph, found: list[_Excess]) -> list[str]:
    """Return the overrides with which no sample is longer than a row."""
    settings = []
    for kind in dict.fromkeys(one.kind for one in found):
        needed = max(one.longest for one in found if one.kind == kind)
        if not needed:
            continue
        settings.append(f"{kind}.row_tokens={needed}")
        budgets = [
            node.stage.stream.micro_batch_tokens
            for node in graph.nodes.values()
            if node.kind == kind and isinstance(node.stage, TrainingStage)
        ]
        if min(budgets) < needed:
            settings.append(f"{kind}.micro_batch_tokens={needed}")
    return settings


class _MeasuredSources:
    """Lengths of sources, each measured once per chat format and prompt style."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[object, tuple[Source, SourceLengths] | None] = {}

    def find(self, path: str, stage: TrainingStage) -> tuple[Source, SourceLengths] | None:
        """Return a source and its lengths for a stage; None if they can't be known here."""
        model, style = stage.model, stage.stream.prompt_style
        key = (path, model.language_model, model.template, model.tower, style)
        if key not in self._known:
            self._known[key] = self._measure(Path(path), stage)
        return self._known[key]

    def _measure(self, path: Path, stage: TrainingStage) -> tuple[Source, SourceLengths] | None:
        style = stage.stream.prompt_style
        try:
            chat: ChatFormat = chat_of(stage.model)
        except ConfigError:
            return None  # the training needs the tokenizer, too, and reports what is missing
        if not path.exists():
            return None
        source = Source(path)
        if source.is_remote and not are_measured(source, chat, style, self._folder):
            _LOG.info("%s is remote: its row lengths are checked when its training starts", path)
            return None
        return source, measure_lengths(source, chat, style, self._folder)

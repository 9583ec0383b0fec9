"""Optimizer steps as DataLoader items: each rank reads, encodes and packs its part of every step.

One item is the work of one step, so the state of the data is the global step itself: a run that
starts at step s gets the same global batches from there on, with any number of ranks and workers.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import overload

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from core.chat.format import ChatFormat, PromptStyle
from core.errors import DataError
from core.rng import named_rng
from core.samples import BadSample, EncodedSample, MicroBatch, Sample, SampleRef, StepBatch
from datamodules.batches.collate import (
    PADDED_ROWS,
    ImageInputs,
    JoinImages,
    ReadySample,
    RowLayout,
    collate_micro_batch,
)
from datamodules.batches.encode import encode_sample
from datamodules.batches.feature_cache import FeatureCache
from datamodules.batches.lengths import SourceLengths
from datamodules.batches.packing import MicroBatchPlan, plan_rank
from datamodules.mixture.stream import MixtureStream, SampleLocations
from datamodules.shards.source import Source

Transform = Callable[[bytes], "torch.Tensor | ImageInputs"]
"""Maps an encoded image to uint8 pixels (C, H, W), or to the inputs of a ready-made model; raises
DataError if it can't be decoded."""

_MAX_MEMOISED_SAMPLES = 8192
"""Largest source whose encoded samples stay in memory, at about 1 kB each."""
_STEPS_PER_LOOKUP = 16
"""Steps located in one call: the vectorised lookup costs about the same for one as for all."""
_READ_AHEAD_STEPS = 4
"""Steps whose reads are announced to the kernel before the first of them is due."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepData:
    """Everything needed to turn stream positions into batches, identical on every rank."""

    stream: MixtureStream
    lengths: dict[str, SourceLengths]
    """Token counts by source name."""
    chat: ChatFormat
    prompt_style: PromptStyle
    micro_batch_tokens: int
    row_tokens: int
    features: FeatureCache | None
    transform: Transform | None
    """Image transform, used only if there is no feature cache."""
    feature_noise_std: float = 0.0
    layout: RowLayout = PADDED_ROWS
    join_images: JoinImages | None = None
    encoded: dict[tuple[str, int], EncodedSample] = dataclasses.field(default_factory=dict)
    """Memoised samples of small sources, keyed by source name and sample index."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlannedSample:
    """A sample of a global batch before it is read: its position, source and length."""

    position: int
    """Position in the mixture stream."""
    source: Source
    index: int
    """Index of the sample in its source."""
    num_tokens: int
    """0 for a sample that is known to be bad."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GlobalBatch(Sequence[PlannedSample]):
    """The samples of a step, identical on every rank.

    Lengths are looked up for all samples at once; a `PlannedSample` is made where it is used.
    """

    data: StepData
    first: int
    """Position of the first sample in the mixture stream."""
    locations: SampleLocations
    """Component, language and index of every sample."""
    num_tokens: np.ndarray
    """int64, per sample; 0 for one that is known to be bad."""

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.num_tokens)

    @overload
    def __getitem__(self, i: int) -> PlannedSample: ...

    @overload
    def __getitem__(self, i: slice) -> list[PlannedSample]: ...

    def __getitem__(self, i: int | slice) -> PlannedSample | list[PlannedSample]:
        """Return one sample, or those of a slice."""
        if isinstance(i, slice):
            return [self[index] for index in range(*i.indices(len(self)))]
        i = range(len(self))[i]
        component = self.data.stream.components[int(self.locations.component[i])]
        return PlannedSample(
            position=self.first + i,
            source=component.source(is_target=bool(self.locations.is_target[i])),
            index=int(self.locations.sample[i]),
            num_tokens=int(self.num_tokens[i]),
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """The batch plan of a step before any sample is read."""

    step: int
    batch: GlobalBatch
    """The global batch, identical on every rank."""
    micro_batches: tuple[MicroBatchPlan, ...]
    """The micro-batches of this rank, as indices into `batch`."""


class StepDataset(IterableDataset[StepBatch]):
    """The steps [start_step, num_steps) of one rank; worker w of W yields every W-th step.

    The DataLoader collects from its workers in turn, so the order of steps does not depend on
    their number.
    """

    def __init__(
        self,
        data: StepData,
        *,
        num_steps: int,
        start_step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.data = data
        self.num_steps, self.start_step = num_steps, start_step
        self.rank, self.world_size = rank, world_size

    def __iter__(self) -> Iterator[StepBatch]:
        """Yield the steps of this worker."""
        info = get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        steps = range(self.start_step + first, self.num_steps, stride)
        announced: deque[PlannedStep] = deque()
        num_read = 0
        stream = self.data.stream
        stop = self.num_steps * stream.samples_per_step
        for i in range(0, len(steps), _STEPS_PER_LOOKUP):
            stream.prefetch(steps[i] * stream.samples_per_step, stop)
            for planned in self.plan(steps[i : i + _STEPS_PER_LOOKUP]):
                self._announce(planned)
                announced.append(planned)
                # The first step does not wait for the plans of later ones, because planning
                # thousands of samples takes seconds.
                if len(announced) > min(_READ_AHEAD_STEPS, num_read):
                    num_read += 1
                    yield self._read_step(announced.popleft())
        while announced:
            yield self._read_step(announced.popleft())

    def step(self, step: int) -> StepBatch:
        """Read this rank's part of one step.

        Raises:
            OSError: If a shard can't be read after several attempts.
        """
        (planned,) = self.plan([step])
        return self._read_step(planned)

    def plan(self, steps: Sequence[int]) -> Iterator[PlannedStep]:
        """Yield this rank's plan of each step."""
        data = self.data
        for step, batch in zip(steps, global_batches(data, steps), strict=True):
            plan = plan_rank(
                batch.num_tokens,
                self.rank,
                self.world_size,
                data.micro_batch_tokens,
                data.row_tokens,
            )
            yield PlannedStep(step=step, batch=batch, micro_batches=plan)

    def _announce(self, step: PlannedStep) -> None:
        """Start kernel read-ahead for this rank's samples while earlier steps are decoded."""
        for rows in step.micro_batches:
            for planned in (step.batch[i] for row in rows for i in row):
                planned.source.announce(planned.index)

    def _read_step(self, step: PlannedStep) -> StepBatch:
        bad = self._known_bad(step.batch)
        micro_batches = tuple(
            self._read_micro_batch(step.batch, rows, bad) for rows in step.micro_batches
        )
        return StepBatch(step=step.step, micro_batches=micro_batches, bad_samples=tuple(bad))

    def _known_bad(self, batch: GlobalBatch) -> list[BadSample]:
        """Return this rank's part of the samples without a length: one rank reports each."""
        bad = np.flatnonzero(batch.num_tokens == 0).tolist()
        known = [batch[i] for i in bad if i % self.world_size == self.rank]
        lengths = self.data.lengths
        return [_bad_sample(p, lengths[p.source.name].fault_of(p.source, p.index)) for p in known]

    def _read_micro_batch(
        self, batch: GlobalBatch, plan: MicroBatchPlan, bad: list[BadSample]
    ) -> MicroBatch:
        """Read, encode and pack a micro-batch; samples that turn out bad are added to `bad`."""
        rows: list[list[ReadySample]] = [[] for _ in plan]
        for row, indices in zip(rows, plan, strict=True):
            for i in indices:
                try:
                    row.append(prepare_sample(self.data, batch[i]))
                except DataError as error:
                    bad.append(_bad_sample(batch[i], error))
        return collate_micro_batch(
            rows,
            pad_token_id=self.data.chat.pad_token_id,
            image_token_id=self.data.chat.image_token_id,
            is_features=self.data.features is not None,
            layout=self.data.layout,
            join_images=self.data.join_images,
        )


def global_batch(data: StepData, step: int) -> GlobalBatch:
    """Return the global batch of a step, which is identical on every rank."""
    (batch,) = global_batches(data, [step])
    return batch


def global_batches(data: StepData, steps: Sequence[int]) -> Iterator[GlobalBatch]:
    """Yield the global batch of each step; all steps are located in one call."""
    batch_size = data.stream.samples_per_step
    firsts = np.asarray(steps, dtype=np.int64) * batch_size
    positions = (firsts[:, None] + np.arange(batch_size)).ravel()
    locations = data.stream.locate(positions)
    num_tokens = _count_tokens(data, locations)
    for number, first in enumerate(firsts.tolist()):
        rows = slice(number * batch_size, (number + 1) * batch_size)
        yield GlobalBatch(
            data=data, first=first, locations=locations[rows], num_tokens=num_tokens[rows]
        )


def _count_tokens(data: StepData, locations: SampleLocations) -> np.ndarray:
    """Return the number of tokens of every located sample, int64."""
    num_tokens = np.zeros(len(locations.sample), dtype=np.int64)
    for c, component in enumerate(data.stream.components):
        for is_target in (False, True):
            here = (locations.component == c) & (locations.is_target == is_target)
            if here.any():
                lengths = data.lengths[component.source(is_target=is_target).name]
                num_tokens[here] = lengths.tokens_of(locations.sample[here])
    return num_tokens


def prepare_sample(data: StepData, planned: PlannedSample) -> ReadySample:
    """Read, encode and transform one sample.

    Raises:
        DataError: If the sample is unusable.
    """
    sample = planned.source.read(planned.index)
    encoded = _encode_memoised(data, planned, sample)
    if encoded.num_tokens != planned.num_tokens:
        raise RuntimeError(
            f"{sample.source}/{sample.key} has {encoded.num_tokens} tokens, the cached lengths "
            f"list {planned.num_tokens}; delete the cached lengths (the shard was replaced without "
            "updating its manifest)"
        )
    ref = SampleRef(
        position=planned.position,
        source=sample.source,
        language=sample.language,
        key=sample.key,
        num_tokens=encoded.num_tokens,
        num_loss_tokens=encoded.num_loss_tokens,
    )
    return ReadySample(ref=ref, encoded=encoded, image=_image_tensor(data, planned, sample.image))


def _encode_memoised(data: StepData, planned: PlannedSample, sample: Sample) -> EncodedSample:
    """Encode a sample, or look it up: small sources repeat often, and tokenisation is slow."""
    memo_key = planned.source.name, planned.index
    if memo_key in data.encoded:
        return data.encoded[memo_key]
    encoded = encode_sample(sample, data.chat, data.prompt_style)
    if len(planned.source) <= _MAX_MEMOISED_SAMPLES:
        data.encoded[memo_key] = encoded
    return encoded


def _image_tensor(
    data: StepData, planned: PlannedSample, image: bytes | None
) -> torch.Tensor | ImageInputs | None:
    if image is None:
        return None
    try:
        if data.features is not None:
            return _noisy_features(data, data.features.get(image), planned.position)
        if data.transform is not None:
            return data.transform(image)
    except DataError as error:
        where = planned.source.describe(planned.index)
        raise DataError(f"{where}: {error}", error.fault) from error
    raise RuntimeError("the sample has an image, but there is no feature cache and no transform")


def _noisy_features(data: StepData, features_PE: np.ndarray, position: int) -> torch.Tensor:
    """Add feature noise that depends on the seed and the position only."""
    if data.feature_noise_std > 0:
        rng = named_rng(data.stream.config.seed, "feature_noise", position)
        noise_PE = rng.standard_normal(features_PE.shape, dtype=np.float32)
        features_PE = features_PE + np.float32(data.feature_noise_std) * noise_PE
    return torch.from_numpy(np.array(features_PE, dtype=np.float32))


def _bad_sample(planned: PlannedSample, error: DataError) -> BadSample:
    return BadSample(
        position=planned.position,
        source=planned.source.name,
        key=planned.source.key(planned.index),
        fault=error.fault or "unusable",
        reason=str(error),
    )

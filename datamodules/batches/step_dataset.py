"""Optimizer steps as DataLoader items: read, encode and pack this rank's share of each step.

One item is one step's work, so the data state is the global step itself: whoever starts at step s,
on any number of ranks and workers, gets the same global batches from there on.
"""

import dataclasses
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from core.chat.format import ChatFormat, PromptStyle
from core.errors import UNDECODABLE, DataError
from core.rng import named_rng
from core.samples import BadSample, EncodedSample, MicroBatch, Sample, SampleRef, StepBatch
from datamodules.batches.collate import ReadySample, collate_micro_batch
from datamodules.batches.encode import encode_sample
from datamodules.batches.feature_cache import FeatureCache
from datamodules.batches.lengths import SourceLengths
from datamodules.batches.packing import MicroBatchPlan, plan_step
from datamodules.mixture.stream import Located, MixtureStream
from datamodules.shards.source import Source

Transform = Callable[[bytes], torch.Tensor]
"""An encoded image -> float32 pixels (C, H, W)."""

_MEMO_SAMPLES = 8192
"""Sources up to this size are kept encoded: some 1 kB a sample."""
_LOCATED_STEPS = 16
"""Steps whose samples are looked up at once: the arithmetic costs as much for one as for all."""
_ANNOUNCED_STEPS = 4
"""Steps whose reads are announced to the system before the first of them is due."""

# What an image library may raise on bytes that are no image; files are read elsewhere.
_IMAGE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepData:
    """All that turns positions into batches, whoever computes them."""

    stream: MixtureStream
    lengths: dict[str, SourceLengths]
    """By source name."""
    chat: ChatFormat
    prompt_style: PromptStyle
    micro_batch_tokens: int
    row_tokens: int
    features: FeatureCache | None
    transform: Transform | None
    """Used where there is no feature cache."""
    feature_noise_std: float = 0.0
    encoded: dict[tuple[str, int], EncodedSample] = dataclasses.field(default_factory=dict)
    """Samples of small sources, encoded once; without their images."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One place of a step's global batch."""

    position: int
    source: Source
    sample: int
    num_tokens: int
    """0 for a sample that is known to be bad."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """A step before anything of it is read."""

    step: int
    slots: list[Slot]
    """The global batch: the same on every rank."""
    micro_batches: tuple[MicroBatchPlan, ...]
    """This rank's, as places in `slots`."""


class StepDataset(IterableDataset[StepBatch]):
    """The steps [start_step, num_steps) of one rank; worker w of W yields every W-th of them.

    The DataLoader asks its workers in turn, so the order is exact with any number of them.
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
        stream = self.data.stream
        stop = self.num_steps * stream.samples_per_step
        for i in range(0, len(steps), _LOCATED_STEPS):
            stream.prefetch(steps[i] * stream.samples_per_step, stop)
            for planned in self._plan(steps[i : i + _LOCATED_STEPS]):
                self._announce(planned)
                announced.append(planned)
                if len(announced) > _ANNOUNCED_STEPS:
                    yield self._read(announced.popleft())
        while announced:
            yield self._read(announced.popleft())

    def step(self, step: int) -> StepBatch:
        """This rank's share of one step.

        Raises:
            OSError: a shard that can't be read, several times over.
        """
        (planned,) = self._plan([step])
        return self._read(planned)

    def _plan(self, steps: Sequence[int]) -> Iterator[PlannedStep]:
        data = self.data
        for step, slots in zip(steps, slots_of_steps(data, steps), strict=True):
            lengths = np.asarray([slot.num_tokens for slot in slots], dtype=np.int64)
            plan = plan_step(lengths, self.world_size, data.micro_batch_tokens, data.row_tokens)
            yield PlannedStep(step=step, slots=slots, micro_batches=plan[self.rank])

    def _announce(self, planned: PlannedStep) -> None:
        """Let the system fetch what this rank will read, while earlier steps are decoded."""
        for rows in planned.micro_batches:
            for slot in (planned.slots[i] for row in rows for i in row):
                slot.source.announce(slot.sample)

    def _read(self, planned: PlannedStep) -> StepBatch:
        bad = self._known_bad(planned.slots)
        micro_batches = tuple(
            self._micro_batch(planned.slots, rows, bad) for rows in planned.micro_batches
        )
        return StepBatch(step=planned.step, micro_batches=micro_batches, bad_samples=tuple(bad))

    def _known_bad(self, slots: list[Slot]) -> list[BadSample]:
        """Samples without a length; each is reported by one rank only."""
        mine = slots[self.rank :: self.world_size]
        known = [slot for slot in mine if slot.num_tokens == 0]
        lengths = self.data.lengths
        return [_bad(slot, lengths[slot.source.name].faults[slot.sample]) for slot in known]

    def _micro_batch(
        self, slots: list[Slot], plan: MicroBatchPlan, bad: list[BadSample]
    ) -> MicroBatch:
        """Read, encode and pack; what turns out broken is left out and added to `bad`."""
        rows: list[list[ReadySample]] = [[] for _ in plan]
        for row, planned in zip(rows, plan, strict=True):
            for i in planned:
                try:
                    row.append(_ready(self.data, slots[i]))
                except DataError as error:
                    bad.append(_bad(slots[i], error))
        return collate_micro_batch(
            rows,
            pad_token_id=self.data.chat.pad_token_id,
            is_features=self.data.features is not None,
        )


def slots_of_step(data: StepData, step: int) -> list[Slot]:
    """The global batch of a step: the same on every rank."""
    (slots,) = slots_of_steps(data, [step])
    return slots


def slots_of_steps(data: StepData, steps: Sequence[int]) -> Iterator[list[Slot]]:
    """The global batches of some steps, located together."""
    num_slots = data.stream.samples_per_step
    firsts = np.asarray(steps, dtype=np.int64) * num_slots
    positions = (firsts[:, None] + np.arange(num_slots)).ravel()
    located = data.stream.locate(positions)
    for first in range(0, len(positions), num_slots):
        places = range(first, first + num_slots)
        yield [_slot(data, located, i, int(positions[i])) for i in places]


def _slot(data: StepData, located: Located, i: int, position: int) -> Slot:
    component = data.stream.components[int(located.component[i])]
    source, sample = component.source(is_target=bool(located.is_target[i])), int(located.sample[i])
    num_tokens = int(data.lengths[source.name].num_tokens[sample])
    return Slot(position=position, source=source, sample=sample, num_tokens=num_tokens)


def _ready(data: StepData, slot: Slot) -> ReadySample:
    sample = slot.source.read(slot.sample)
    encoded = _encoded(data, slot, sample)
    if encoded.num_tokens != slot.num_tokens:
        raise RuntimeError(
            f"{sample.source}/{sample.key} has {encoded.num_tokens} tokens, the cached lengths say "
            f"{slot.num_tokens}; delete the cached lengths (the shard changed under its manifest)"
        )
    ref = SampleRef(
        position=slot.position,
        source=sample.source,
        language=sample.language,
        key=sample.key,
        num_tokens=encoded.num_tokens,
        num_loss_tokens=encoded.num_loss_tokens,
    )
    return ReadySample(ref=ref, encoded=encoded, image=_image(data, slot, sample.image))


def _encoded(data: StepData, slot: Slot, sample: Sample) -> EncodedSample:
    """Encode, or look up: a small source comes round every few steps, and tokenising is slow."""
    place = slot.source.name, slot.sample
    if place in data.encoded:
        return data.encoded[place]
    encoded = encode_sample(sample, data.chat, data.prompt_style)
    if len(slot.source) <= _MEMO_SAMPLES:
        data.encoded[place] = dataclasses.replace(encoded, image=None)
    return encoded


def _image(data: StepData, slot: Slot, image: bytes | None) -> torch.Tensor | None:
    if image is None:
        return None
    if data.features is not None:
        try:
            features_PE = data.features.get(image)
        except DataError as error:
            raise DataError(f"{_name(slot)}: {error}", error.fault) from error
        if data.feature_noise_std > 0:
            seed = data.stream.config.seed
            rng = named_rng(seed, "feature_noise", slot.position)
            noise_PE = rng.standard_normal(features_PE.shape, dtype=np.float32)
            features_PE = features_PE + np.float32(data.feature_noise_std) * noise_PE
        return torch.from_numpy(np.array(features_PE, dtype=np.float32))
    if data.transform is None:
        raise RuntimeError("an image, but neither a feature cache nor a transform was given")
    try:
        return data.transform(image)
    except (*_IMAGE_ERRORS, DataError) as error:
        fault = error.fault if isinstance(error, DataError) else UNDECODABLE
        message = f"{_name(slot)}: image can't be decoded: {error}"
        raise DataError(message, fault) from error


def _name(slot: Slot) -> str:
    return f"{slot.source.name}/{slot.source.key(slot.sample)}"


def _bad(slot: Slot, error: DataError) -> BadSample:
    return BadSample(
        position=slot.position,
        source=slot.source.name,
        key=slot.source.key(slot.sample),
        fault=error.fault or "unusable",
        reason=str(error),
    )

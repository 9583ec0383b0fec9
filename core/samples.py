"""Samples and batches of the data path, and the legend of tensor shapes.

Shape legend of variable names in the whole repository:
    B  rows of a micro-batch          T  token positions of a row
    A  axes of rotary positions
    N  images of a micro-batch        P  visual tokens of an image
    E  width of the vision tower      D  width of the language model
    V  vocabulary                     C, H, W  channels, height, width of an image
"""

import dataclasses
from enum import StrEnum
from typing import Any, Self

import numpy as np
import torch

from core.chat.tokens import IGNORE_INDEX, PADDING_DOCUMENT
from core.tensor_buffer import TensorPlace, pack_tensors

_EMPTY_POSITIONS = 128
"""Length of a micro-batch of padding: kernels of a GPU need multiples of 128 (block masks) or 16
(float8)."""
_INPUTS = "image_inputs"


class Role(StrEnum):
    """Speaker of a turn."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TEXT = "text"
    """Running text without a speaker; all of it counts in the loss."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One record of a source, as stored in a shard."""

    key: str
    source: str
    language: str
    parallel_id: str
    turns: tuple[Turn, ...]
    image: bytes | None
    """Encoded image (webp, jpg, png), or None for text-only records."""
    image_size: tuple[int, int] | None = None
    """Width and height of the upright image where the index of the shard records them."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSample:
    """Token sequence of a sample, with placeholder ids in place of its image."""

    input_ids_T: np.ndarray
    """int64, with one placeholder id per visual token."""
    loss_mask_T: np.ndarray
    """bool: positions whose token counts in the loss (predicted from the position before)."""
    branch_ids_T: np.ndarray
    """int64: 0 in the shared part, to which all later tokens attend; 1, 2, ... in branches, which
    attend to the shared part and to themselves. All 0 in an ordinary sequence."""
    rotary_positions_AT: np.ndarray | None = None
    """int64: positions on each axis of multimodal rotary embeddings; None without such axes."""

    @property
    def num_tokens(self) -> int:
        """Length of the sequence, visual tokens included."""
        return int(self.input_ids_T.size)

    @property
    def num_loss_tokens(self) -> int:
        """Number of tokens that count in the loss."""
        return int(self.loss_mask_T.sum())

    def positions(self) -> np.ndarray:
        """Return the positions (int64, shape (T,)); every branch continues from the shared part."""
        indices_T = np.arange(self.num_tokens)
        _, first_of_branch, branch_of_T = np.unique(
            self.branch_ids_T, return_index=True, return_inverse=True
        )
        prefix = int((self.branch_ids_T == 0).sum())
        return np.where(
            self.branch_ids_T == 0, indices_T, indices_T - first_of_branch[branch_of_T] + prefix
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SampleRef:
    """Identity and token counts of one sample in a collated batch."""

    position: int
    """Global sample index in the mixture stream."""
    source: str
    language: str
    key: str
    num_tokens: int
    num_loss_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BadSample:
    """Sample that was skipped, with the reason."""

    position: int
    source: str
    key: str
    fault: str
    """Short description, used to group samples in counts."""
    reason: str
    """Full error message."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Packed rows of one forward pass, built by `MicroBatch.of_rows`.

    Everything that the forward pass must know about the content of its rows is counted on the CPU
    and stored next to them: asking a tensor on a GPU would stop the host until the GPU is idle.
    Positions and offsets refer to the rows laid one after the other.
    """

    input_ids_BT: torch.Tensor
    """int64; placeholder ids at visual tokens, the pad id after the last document."""
    labels_BT: torch.Tensor
    """int64; the token of this position if it counts in the loss, else IGNORE_INDEX (Hugging Face
    convention: logits of position t-1 are compared with the label of position t)."""
    position_ids_BT: torch.Tensor
    """int64; restart at 0 in every document, and after the shared part in each of its branches."""
    document_ids_BT: torch.Tensor
    """int64; 1, 2, ... per row, PADDING_DOCUMENT at padding."""
    branch_ids_BT: torch.Tensor
    """int64; 0 in the shared part of a document, else the branch (see `EncodedSample`)."""
    pixels_NCHW: torch.Tensor | None
    """uint8 images in the row-major order of their placeholders, or None; the tower normalises
    them on its device."""
    features_NPE: torch.Tensor | None
    """float32 features in the same order if they come from the cache, else None."""
    samples: tuple[SampleRef, ...]
    loss_positions_K: torch.Tensor
    """int64; positions of the labels that count in the loss. A label in the first column of a row
    does not, because no position predicts it."""
    image_positions_M: torch.Tensor
    """int64; positions of the placeholders."""
    document_starts: torch.Tensor
    """int32 offsets (documents + 1,) of the documents; the padding of a row is one of them."""
    longest_document: int
    """Length of the longest document in tokens, padding included."""
    num_segments: int
    """Number of stretches of equal document and branch."""
    has_branches: bool
    """Whether any document has branches."""
    loss_sources_K: torch.Tensor
    """int32; for each of `loss_positions_K`, the index of its source in `sources`. Empty if the
    samples are not known."""
    sources: tuple[str, ...]
    """Names of the sources of the samples, sorted."""
    rotary_positions_ABT: torch.Tensor | None = None
    """int64; positions on each axis of multimodal rotary embeddings, or None without such axes."""
    image_inputs: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    """What a ready-made model's own image processor returns for the images of the batch."""

    @classmethod
    def of_rows(  # noqa: PLR0913 - one argument per tensor
        cls,
        *,
        input_ids_BT: torch.Tensor,
        labels_BT: torch.Tensor,
        position_ids_BT: torch.Tensor,
        document_ids_BT: torch.Tensor,
        branch_ids_BT: torch.Tensor,
        image_token_id: int,
        pixels_NCHW: torch.Tensor | None = None,
        features_NPE: torch.Tensor | None = None,
        samples: tuple[SampleRef, ...] = (),
        rotary_positions_ABT: torch.Tensor | None = None,
        image_inputs: dict[str, torch.Tensor] | None = None,
    ) -> Self:
        """Build a micro-batch from rows on the CPU, and count what the forward pass must know."""
        is_label_BT = labels_BT.numpy() != IGNORE_INDEX
        is_label_BT[:, 0] = False
        documents_BT, branches_BT = document_ids_BT.numpy(), branch_ids_BT.numpy()
        starts_BT = np.ones(documents_BT.shape, dtype=bool)
        starts_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        offsets = np.append(np.flatnonzero(starts_BT), documents_BT.size)
        starts_BT[:, 1:] |= branches_BT[:, 1:] != branches_BT[:, :-1]
        sources = tuple(sorted({ref.source for ref in samples}))
        numbers = [sources.index(ref.source) for ref in samples]
        loss_sources = np.repeat(numbers, [ref.num_loss_tokens for ref in samples])
        return cls(
            input_ids_BT=input_ids_BT,
            labels_BT=labels_BT,
            position_ids_BT=position_ids_BT,
            document_ids_BT=document_ids_BT,
            branch_ids_BT=branch_ids_BT,
            pixels_NCHW=pixels_NCHW,
            features_NPE=features_NPE,
            samples=samples,
            loss_positions_K=torch.from_numpy(np.flatnonzero(is_label_BT)),
            image_positions_M=find_placeholders(input_ids_BT, image_token_id),
            document_starts=torch.from_numpy(offsets.astype(np.int32)),
            longest_document=int(np.diff(offsets).max()),
            num_segments=int(starts_BT.sum()),
            has_branches=bool(branches_BT.any()),
            loss_sources_K=torch.from_numpy(loss_sources.astype(np.int32)),
            sources=sources,
            rotary_positions_ABT=rotary_positions_ABT,
            image_inputs=image_inputs or {},
        )

    @property
    def num_tokens(self) -> int:
        """Number of positions without padding."""
        return sum(ref.num_tokens for ref in self.samples)

    @property
    def num_images(self) -> int:
        """Number of images in this micro-batch, apart from those in `image_inputs`."""
        images = self.features_NPE if self.features_NPE is not None else self.pixels_NCHW
        return 0 if images is None else int(images.shape[0])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return all tensors by field; those of `image_inputs` have this prefix."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        own = {name: value for name, value in values if isinstance(value, torch.Tensor)}
        return own | {f"{_INPUTS}.{name}": value for name, value in self.image_inputs.items()}

    def to(self, device: torch.device | str) -> Self:
        """Move all tensors to a device."""
        moved = {name: tensor.to(device) for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **_nest_inputs(moved))


def find_placeholders(input_ids_BT: torch.Tensor, image_token_id: int) -> torch.Tensor:
    """Return the positions (int64) of the placeholders in the rows laid one after the other.

    On a GPU this waits until the GPU is idle; a training step takes them from its micro-batch.
    """
    return (input_ids_BT.flatten() == image_token_id).nonzero().flatten()


def empty_micro_batch() -> MicroBatch:
    """Return a micro-batch of padding, which contributes nothing to the loss.

    A rank with less data takes part in the collectives of the others with it.
    """
    padding = torch.zeros((1, _EMPTY_POSITIONS), dtype=torch.int64)
    return MicroBatch.of_rows(
        input_ids_BT=padding,
        labels_BT=torch.full_like(padding, IGNORE_INDEX),
        position_ids_BT=padding,
        document_ids_BT=torch.full_like(padding, PADDING_DOCUMENT),
        branch_ids_BT=padding,
        image_token_id=-1,  # no token is a placeholder
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepBatch:
    """One rank's part of one optimizer step: one item of the DataLoader."""

    step: int
    micro_batches: tuple[MicroBatch, ...]
    """The same number on all ranks that are planned together (`datamodules.batches.packing`); a
    rank with less data has micro-batches without labels."""
    bad_samples: tuple[BadSample, ...] = ()

    @property
    def num_loss_tokens(self) -> int:
        """Loss tokens of this rank in this step."""
        return sum(ref.num_loss_tokens for mb in self.micro_batches for ref in mb.samples)

    def to(self, device: torch.device | str) -> Self:
        """Move the tensors of all micro-batches to a device, in one copy."""
        tensors = (tensor for mb in self.micro_batches for tensor in mb.tensors().values())
        if all(tensor.device == torch.device(device) for tensor in tensors):
            return self
        packed = pack_step(self)
        moved = dataclasses.replace(packed, buffer=packed.buffer.to(device)).unpack()
        return dataclasses.replace(self, micro_batches=moved.micro_batches)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the tensors as one, because a process receives each as a file descriptor."""
        return PackedStep.unpack, (pack_step(self),)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PackedStep:
    """A step with all of its tensors in one buffer, as it travels between processes."""

    step: int
    micro_batches: tuple[dict[str, Any], ...]
    """The fields of each micro-batch, with a `TensorPlace` for every tensor."""
    bad_samples: tuple[BadSample, ...]
    buffer: torch.Tensor
    """uint8; holds all tensors."""

    def unpack(self) -> StepBatch:
        """Return the step, whose tensors are views of the buffer."""
        micro_batches = tuple(self._unpack(fields) for fields in self.micro_batches)
        return StepBatch(step=self.step, micro_batches=micro_batches, bad_samples=self.bad_samples)

    def _unpack(self, fields: dict[str, Any]) -> MicroBatch:
        values: dict[str, Any] = {
            name: value.view(self.buffer) if isinstance(value, TensorPlace) else value
            for name, value in fields.items()
        }
        return MicroBatch(**_nest_inputs(values))


def _nest_inputs(values: dict[str, Any]) -> dict[str, Any]:
    """Collect the image inputs of `MicroBatch.tensors` in a field of their own."""
    prefix = f"{_INPUTS}."
    inputs = {name: value for name, value in values.items() if name.startswith(prefix)}
    fields = {name: value for name, value in values.items() if name not in inputs}
    return {**fields, _INPUTS: {name.removeprefix(prefix): x for name, x in inputs.items()}}


def pack_step(batch: StepBatch) -> PackedStep:
    """Pack the tensors of a step; see `core.tensor_buffer`."""
    tensors = [micro_batch.tensors() for micro_batch in batch.micro_batches]
    buffer, places = pack_tensors([tensor for named in tensors for tensor in named.values()])
    next_place = iter(places)
    micro_batches = tuple(
        {
            field.name: next(next_place) if field.name in named else getattr(mb, field.name)
            for field in dataclasses.fields(mb)
            if field.name != _INPUTS
        }
        | {name: next(next_place) for name in named if name.startswith(_INPUTS)}
        for mb, named in zip(batch.micro_batches, tensors, strict=True)
    )
    return PackedStep(
        step=batch.step,
        micro_batches=micro_batches,
        bad_samples=batch.bad_samples,
        buffer=buffer,
    )

"""What travels through the data path, and the legend of tensor shapes.

Shape legend, used in names throughout the house:
    B  rows of a micro-batch          T  token positions of a row
    N  images of a micro-batch      P  visual tokens of an image
    E  width of the vision tower      D  width of the language model
    V  vocabulary                     C, H, W  channels, height, width of an image
"""

import dataclasses
from enum import StrEnum
from typing import Any, Self

import numpy as np
import torch


class Role(StrEnum):
    """Who speaks in a turn."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TEXT = "text"
    """Running text without a speaker: all of it is a target."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One record of a source as it lies in a shard."""

    key: str
    source: str
    language: str
    parallel_id: str
    turns: tuple[Turn, ...]
    image: bytes | None
    """The encoded image (webp, jpg, png), or None for text-only records."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSample:
    """The token sequence of a sample, with placeholder ids in place of its image."""

    input_ids_T: np.ndarray
    """int64, with one placeholder id per visual token."""
    loss_mask_T: np.ndarray
    """bool: positions whose token counts in the loss (predicted from the position before)."""
    branch_ids_T: np.ndarray
    """int64; 0 where everything after may look, 1, 2, ... inside branches that see what is 0 and
    themselves only. All 0 in an ordinary sequence."""

    @property
    def num_tokens(self) -> int:
        """Length of the sequence, visual tokens included."""
        return int(self.input_ids_T.size)

    @property
    def num_loss_tokens(self) -> int:
        """Number of tokens that the loss counts."""
        return int(self.loss_mask_T.sum())

    def positions(self) -> np.ndarray:
        """int64 (T,): every branch counts on from the prefix, as if it stood there alone."""
        places_T = np.arange(self.num_tokens)
        _, first_of_branch, branch_of_T = np.unique(
            self.branch_ids_T, return_index=True, return_inverse=True
        )
        prefix = int((self.branch_ids_T == 0).sum())
        return np.where(
            self.branch_ids_T == 0, places_T, places_T - first_of_branch[branch_of_T] + prefix
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
    """A sample that was left out of its batch, and why."""

    position: int
    source: str
    key: str
    fault: str
    """A few words that it is counted by."""
    reason: str
    """All about it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Packed rows that go through the model together."""

    input_ids_BT: torch.Tensor
    """int64; placeholder ids where visual tokens go, the pad id after the last document."""
    labels_BT: torch.Tensor
    """int64; the token to predict AT this position's place in the input (Hugging Face convention:
    logits of position t-1 are compared with labels of position t), IGNORE_INDEX elsewhere."""
    position_ids_BT: torch.Tensor
    """int64; restart at 0 with every document, and after the prefix with every branch of it."""
    document_ids_BT: torch.Tensor
    """int64; 1, 2, ... per row; PADDING_DOCUMENT on padding."""
    branch_ids_BT: torch.Tensor
    """int64; 0 in what all of a document shares, else the branch (`EncodedSample`)."""
    pixels_NCHW: torch.Tensor | None
    """float32 images in the order of their placeholders in row-major order, or None."""
    features_NPE: torch.Tensor | None
    """float32 features of the frozen tower in the same order, when they come from the cache."""
    samples: tuple[SampleRef, ...]

    @property
    def num_images(self) -> int:
        """Images in this micro-batch."""
        images = self.features_NPE if self.features_NPE is not None else self.pixels_NCHW
        return 0 if images is None else int(images.shape[0])

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """Move every tensor; what isn't a tensor stays."""
        moved: dict[str, Any] = {
            field.name: value.to(device, **kwargs)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return dataclasses.replace(self, **moved)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StepBatch:
    """One rank's share of one optimizer step: one item of the DataLoader."""

    step: int
    micro_batches: tuple[MicroBatch, ...]
    """The same number on every rank; a rank with less data gets empty-target micro-batches."""
    bad_samples: tuple[BadSample, ...] = ()

    @property
    def num_loss_tokens(self) -> int:
        """Target tokens of this rank in this step."""
        return sum(ref.num_loss_tokens for mb in self.micro_batches for ref in mb.samples)

    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """Move every tensor of every micro-batch."""
        moved = tuple(micro_batch.to(device, **kwargs) for micro_batch in self.micro_batches)
        return dataclasses.replace(self, micro_batches=moved)

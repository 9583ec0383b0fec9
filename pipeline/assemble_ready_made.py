"""Assembly of a ready-made model from its folder and trained weights."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from core.chat.ready_made import ReadyMadeChat
from datamodules.batches.collate import JoinImages
from datamodules.batches.step_dataset import Transform
from models.freezing import FreezePolicy, FreezeReport, apply_freeze
from models.language.adapters import TuningConfig, TuningKind, apply_tuning, merge_adapters
from models.language.attention import AttentionKind
from models.ready_made.loading import ReadyMadeSource, load_chat, load_ready_made
from models.ready_made.model import ReadyMadeVlm
from models.weights import load_tensors, save_tensors
from pipeline.assemble import WEIGHTS

_PART = "stock"
"""Name of the part in weights files, which hold the trained weights only."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadyMadeParts:
    """A ready-made model with its chat format; see `VlmParts`."""

    model: ReadyMadeVlm
    chat: ReadyMadeChat
    source: str
    """Where the model comes from, for messages."""
    features: None = None
    """The vision encoder always runs."""

    @property
    def attention(self) -> AttentionKind | None:
        """Kernel that every class accepts; that of a CPU has not been tried on a GPU."""
        is_cpu = self.model.device.type == "cpu"
        return AttentionKind.DOCUMENTS if is_cpu else AttentionKind.MASK

    @property
    def transform(self) -> Transform:
        """Image processor of the model, which loaders apply to an image."""
        return self.chat.encode_image

    @property
    def join_images(self) -> JoinImages:
        """Join the images of a micro-batch as the class expects them."""
        return self.model.rules.join_images

    @property
    def fill(self) -> Callable[[object], None]:
        """Nothing is left to load, because sharding is not supported."""
        return lambda _model: None

    def save_trained(self, path: Path, report: FreezeReport, *, is_writer: bool) -> None:
        """Save the weights that a stage trained."""
        del report
        save_tensors(path, _trained_tensors(self.model), is_writer=is_writer)


def assemble_ready_made(  # noqa: PLR0913 - every argument is a step of the assembly
    source: ReadyMadeSource,
    *,
    tuning: TuningConfig,
    policy: FreezePolicy,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    trained: Sequence[Path] = (),
    is_merged: bool = False,
) -> ReadyMadeParts:
    """Load a model, apply the tuning method of its last stage, and load what that stage trained.

    Args:
        source: The model.
        tuning: Tuning method of the last training stage.
        policy: Parts that it trains.
        seed: Seed of fresh adapters.
        dtype: Type of the weights.
        device: Where the weights go; None is the CPU, where weights that are quantised (QLoRA)
            stay.
        trained: Results of training stages with this tuning, in order.
        is_merged: Merge adapters into the language model.
    """
    if tuning.kind is TuningKind.QLORA:
        # See `assemble`: every stage must get the same 4-bit weights.
        dtype, device = torch.float32, None
    model = load_ready_made(source, dtype=dtype, device=device)
    if device is not None:
        model.to(device)
    apply_tuning(model.stock, tuning, seed=seed, learns=policy.language_model)
    apply_freeze(model, policy)
    for result in trained:
        load_tensors(result / WEIGHTS, _trained_tensors(model), (_PART,))
    if is_merged:
        merge_adapters(model.stock)
    return ReadyMadeParts(model=model, chat=load_chat(source), source=source.path)


def _trained_tensors(model: ReadyMadeVlm) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}

"""The baseline: the stock class under the stock Trainer, collated by its own processor.

A batch is a list of conversations with their images, which the processor renders, tokenizes, pads
and transforms in one call. Loss counts the same tokens as ours; finding them costs it no time.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoProcessor, Gemma3Processor
from transformers.loss.loss_utils import ForCausalLMLoss

from benchmarks.llava_baseline import Result, train_padded
from benchmarks.ready_made_step.ours import load_frozen
from core.chat.format import PromptStyle
from core.chat.messages import to_messages
from core.chat.ready_made import ReadyMadeChat
from core.chat.tokens import IGNORE_INDEX
from core.io.images import decode_image
from core.samples import EncodedSample, Role, Sample
from datamodules.batches.step_dataset import PlannedSample


class ReadOnAccess(Dataset[Sample]):
    """Dataset that reads records and images from the shards, as ours does."""

    def __init__(self, steps: Sequence[Sequence[PlannedSample]]) -> None:
        self.samples = [sample for step in steps for sample in step]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Return one sample."""
        planned = self.samples[index]
        return planned.source.read(planned.index)


def encode_all(
    steps: Sequence[Sequence[PlannedSample]], chat: ReadyMadeChat
) -> dict[tuple[str, str], EncodedSample]:
    """Return our encoding of every sample by source and key."""
    encoded = {}
    for planned in (sample for step in steps for sample in step):
        sample = planned.source.read(planned.index)
        if (sample.source, sample.key) not in encoded:
            one = chat.encode(sample, PromptStyle.CHAT)
            encoded[sample.source, sample.key] = one
    return encoded


class ProcessorCollator:
    """Collator that has the processor of the class render, tokenize and pad a batch."""

    def __init__(
        self, processor: Any, encoded: dict[tuple[str, str], EncodedSample], *, end: str
    ) -> None:
        """Keep the processor and the tokens that the loss counts.

        Args:
            processor: Processor of the class.
            encoded: Our encoding of every sample, from which the loss tokens are read.
            end: Token that ends running text, which no template lays out.
        """
        self.processor, self.encoded, self.end = processor, encoded, end
        self.num_positions = self.num_tokens = 0

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Collate one batch."""
        images: list[Any] = [decode_image(one.image) for one in samples if one.image is not None]
        if images and isinstance(self.processor, Gemma3Processor):
            # It takes a list for every conversation, of which the first must not be empty.
            samples = sorted(samples, key=lambda one: one.image is None)
            found = iter(images)
            images = [[] if one.image is None else [next(found)] for one in samples]
        batch = self.processor(
            text=[self._render(sample) for sample in samples],
            images=images or None,
            padding=True,
            padding_side="right",  # the default of some classes is for generation
            add_special_tokens=False,
            return_tensors="pt",
        )
        ids_BT = batch["input_ids"]
        labels_BT = torch.full_like(ids_BT, IGNORE_INDEX)
        for row, sample in enumerate(samples):
            encoded = self.encoded[sample.source, sample.key]
            ids_T, mask_T = ids_BT[row, : encoded.num_tokens], torch.from_numpy(encoded.loss_mask_T)
            if not np.array_equal(ids_T.numpy(), encoded.input_ids_T):
                raise ValueError(
                    f"{sample.source}/{sample.key}: the token ids of both sides differ"
                )
            labels_BT[row, : encoded.num_tokens][mask_T] = ids_T[mask_T]
        self.num_positions += ids_BT.numel()
        self.num_tokens += int(batch["attention_mask"].sum())
        return {**batch, "labels": labels_BT}

    def _render(self, sample: Sample) -> str:
        if [turn.role for turn in sample.turns] == [Role.TEXT]:
            return (self.processor.tokenizer.bos_token or "") + sample.turns[0].content + self.end
        text: str = self.processor.apply_chat_template(to_messages(sample.turns, None))
        return text


def mean_over_step(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor
) -> torch.Tensor:
    """Return the loss of a batch over the loss tokens of its step, from the logits of the class.

    Several classes average over each batch by default, and the Trainer over batches, so that the
    loss would depend on which samples share a batch.
    """
    logits = outputs.logits
    loss: torch.Tensor = ForCausalLMLoss(
        logits, labels, logits.shape[-1], num_items_in_batch=num_items_in_batch
    )
    return loss


def run_trainer(
    checkpoint: Path,
    steps: Sequence[Sequence[PlannedSample]],
    chat: ReadyMadeChat,
    encoded: dict[tuple[str, str], EncodedSample],
    *,
    batch_size: int,
) -> Result:
    """Train with padded batches that accumulate to the same steps."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    collator = ProcessorCollator(processor, encoded, end=chat.template.assistant_suffix)
    model = load_frozen(checkpoint)
    model.config.use_cache = False
    clock = train_padded(
        model,
        ReadOnAccess(steps),
        collator,
        num_steps=len(steps),
        batch_size=batch_size,
        batches_per_step=len(steps[0]) // batch_size,
        loss=mean_over_step,
    )
    density = collator.num_tokens / collator.num_positions
    return Result(seconds=clock.seconds, losses=clock.losses, density=density)

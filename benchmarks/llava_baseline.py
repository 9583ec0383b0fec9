"""The baseline of `train_step`: stock LlavaForConditionalGeneration under the stock Trainer.

The vision tower is replaced by a stub that passes cached features through, as on our side. Nothing
else is changed.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from core.chat.format import ChatFormat
from core.chat.tokens import IGNORE_INDEX
from datamodules.batches.collate import ReadySample

VISION_WIDTH, NUM_IMAGE_TOKENS, LR = 192, 5, 1e-3
SHAPE = Path(__file__).parents[1] / "data" / "embedded" / "models" / "lm_general"
WARM_STEPS = 2

_clock: list[Callable[[], float]] = [time.perf_counter]


def set_clock(*, cpu_seconds: bool) -> None:
    """Choose wall time or this process's CPU time for both sides."""
    _clock[0] = time.process_time if cpu_seconds else time.perf_counter


def read_clock() -> float:
    """Return the seconds of the chosen clock."""
    return _clock[0]()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """Result of one run of one side."""

    seconds: float
    """Duration of the steps after the warm-up."""
    losses: list[float]
    density: float


class Clock:
    """End times and losses of all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []
        self.losses: list[float] = []

    @property
    def seconds(self) -> float:
        """Return the time from the end of the warm-up to the end of the last step."""
        return self.ends[-1] - self.ends[WARM_STEPS - 1]


def count_tokens(steps: Sequence[Sequence[ReadySample]]) -> int:
    """Return the number of tokens without padding."""
    return sum(sample.encoded.num_tokens for step in steps for sample in step)


class CachedTower(nn.Module):
    """Stub of LLaVA's vision tower, whose "pixels" are the features."""

    def forward(self, features_NPE: torch.Tensor, **_: Any) -> Any:
        """Return the features as the second-to-last hidden state, after a class token."""
        hidden = nn.functional.pad(features_NPE, (0, 0, 1, 0))
        return transformers.modeling_outputs.BaseModelOutputWithPooling(
            hidden_states=(hidden, hidden)
        )


def build_llava(chat: ChatFormat) -> LlavaForConditionalGeneration:
    """Build LLaVA with the shape of the embedded language model and random weights."""
    text = LlamaConfig.from_pretrained(SHAPE)
    vision = transformers.CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        image_size=8,
        patch_size=8,
    )
    config = LlavaConfig(
        text_config=text,
        vision_config=vision,
        image_token_index=chat.image_token_id,
        image_seq_length=NUM_IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower = CachedTower()
    return model


def clone(llava: LlavaForConditionalGeneration, chat: ChatFormat) -> LlavaForConditionalGeneration:
    """Return a copy of the model."""
    model = build_llava(chat)
    model.load_state_dict(llava.state_dict())
    return model


class TheirClock(Clock, transformers.TrainerCallback):
    """Callback of the Trainer that records times and losses."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Record the end of a step."""
        del args, kwargs
        self.ends.append(read_clock())

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the loss of a step."""
        del args, state, control
        if "loss" in kwargs["logs"]:
            self.losses.append(float(kwargs["logs"]["loss"]))


class Flat(Dataset[ReadySample]):
    """Dataset of all samples in order."""

    def __init__(self, steps: Sequence[Sequence[ReadySample]]) -> None:
        self.samples = [sample for step in steps for sample in step]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> ReadySample:
        """Return one sample."""
        return self.samples[index]


class PaddingCollator:
    """Collator that pads to the longest sample of the batch, as LLaVA's does."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id, self.num_positions = pad_token_id, 0

    def __call__(self, samples: Sequence[ReadySample]) -> dict[str, torch.Tensor]:
        """Collate one batch."""
        shape = len(samples), max(sample.encoded.num_tokens for sample in samples)
        ids, labels = torch.full(shape, self.pad_token_id), torch.full(shape, IGNORE_INDEX)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, sample in enumerate(samples):
            tokens = torch.from_numpy(sample.encoded.input_ids_T)
            is_target = torch.from_numpy(sample.encoded.loss_mask_T)
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            labels[row, : len(tokens)] = torch.where(is_target, tokens, IGNORE_INDEX)
        self.num_positions += ids.numel()
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        images = [sample.image for sample in samples if sample.image is not None]
        return batch | ({"pixel_values": torch.stack(images)} if images else {})


class OrderedTrainer(transformers.Trainer):
    """Trainer that keeps the order of the samples."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return torch.utils.data.SequentialSampler(self.train_dataset)


def run_hugging_face(
    llava: LlavaForConditionalGeneration,
    steps: Sequence[Sequence[ReadySample]],
    chat: ChatFormat,
    *,
    batch_size: int,
) -> Result:
    """Train with padded batches that accumulate to the same steps."""
    collator = PaddingCollator(chat.pad_token_id)
    clock = train_padded(
        clone(llava, chat),
        Flat(steps),
        collator,
        num_steps=len(steps),
        batch_size=batch_size,
        batches_per_step=len(steps[0]) // batch_size,
    )
    density = count_tokens(steps) / collator.num_positions
    return Result(seconds=clock.seconds, losses=clock.losses, density=density)


def train_padded(  # noqa: PLR0913 - all but the first three are keywords
    model: transformers.PreTrainedModel,
    samples: Dataset[Any],
    collator: Callable[[Sequence[Any]], Mapping[str, Any]],
    *,
    num_steps: int,
    batch_size: int,
    batches_per_step: int,
    loss: Callable[..., torch.Tensor] | None = None,
) -> TheirClock:
    """Train a model with the stock Trainer in the order of the samples; returns the clock.

    Args:
        model: The model; parameters without gradient are frozen.
        samples: The samples of all steps.
        collator: Maps the samples of a batch to the inputs of the model.
        num_steps: Optimizer steps.
        batch_size: Samples per batch.
        batches_per_step: Batches whose gradients are accumulated in a step.
        loss: Loss of a batch (`compute_loss_func`); None for that of the model.
    """
    clock = TheirClock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=num_steps,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=batches_per_step,
            learning_rate=LR,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = OrderedTrainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            data_collator=collator,
            callbacks=[clock],
            compute_loss_func=loss,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    return clock

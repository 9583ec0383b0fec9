"""Baseline of the GPU step benchmark: stock LLaVA with the stock Hugging Face Trainer.

Padded batches, full logits, gradient checkpointing in both stages as in LLaVA-1.5's scripts, bf16
weights, 8-bit AdamW in stage 2 (otherwise it does not fit on one 80 GB card). Its connector
is LLaVA's own with two layers. The data are the same shards, decoded by worker processes.
"""

import tempfile
import time
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils.data import Dataset

from benchmarks.gpu_step.data import Sources
from benchmarks.gpu_step.flops import Work, flop_model
from benchmarks.gpu_step.model import Shape, build_llava, build_ours, make_transform
from benchmarks.gpu_step.ours import Plan, Timing
from benchmarks.llava_baseline import OrderedTrainer, PaddingCollator
from core.chat.format import ChatFormat, PromptStyle
from core.rng import FeistelPermutation
from core.samples import SampleRef
from datamodules.batches.collate import ReadySample
from datamodules.batches.encode import encode_sample
from datamodules.shards.source import Source
from models.towers.image_transform import PixelNormaliser


class Decoded(Dataset[ReadySample]):
    """Samples in a fixed random order, read, decoded and tokenised on access."""

    def __init__(self, plan: Plan, shape: Shape, chat: ChatFormat, sources: Sources) -> None:
        self.chat, self.transform = chat, make_transform(shape)
        self.normalise = PixelNormaliser(self.transform)
        self.style = PromptStyle.PLAIN if plan.stage == 1 else PromptStyle.CHAT
        paths = {sources.captions: shape.samples_per_step}
        if plan.stage == 2:
            paths = {
                sources.conversations: shape.samples_per_step,
                sources.texts: shape.texts_per_step,
            }
        self.items: list[tuple[Source, int]] = []
        columns = []
        for path, count in paths.items():
            source = Source(path)
            order = FeistelPermutation(len(source), 0, source.name)(np.arange(len(source)))
            chosen = np.resize(order, count * plan.num_steps).reshape(plan.num_steps, count)
            columns.append((source, chosen))
        for step in range(plan.num_steps):
            drawn = [(source, int(i)) for source, chosen in columns for i in chosen[step]]
            mixed = FeistelPermutation(len(drawn), step, "mixed")(np.arange(len(drawn)))
            self.items += [drawn[i] for i in mixed]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.items)

    def __getitem__(self, index: int) -> ReadySample:
        """Return one sample."""
        source, number = self.items[index]
        sample = source.read(number)
        encoded = encode_sample(sample, self.chat, self.style)
        ref = SampleRef(
            position=index,
            source=source.name,
            language=sample.language,
            key=sample.key,
            num_tokens=encoded.num_tokens,
            num_loss_tokens=encoded.num_loss_tokens,
        )
        image = None if sample.image is None else self.normalise(self.transform(sample.image))
        return ReadySample(ref=ref, encoded=encoded, image=image)

    def work(self, first: int, last: int) -> Work:
        """Return the work of the samples [first, last)."""
        total = Work()
        for index in range(first, last):
            source, number = self.items[index]
            sample = source.read(number, with_image=False)
            encoded = encode_sample(sample, self.chat, self.style)
            length = encoded.num_tokens
            total += Work(
                tokens=length,
                loss_tokens=encoded.num_loss_tokens,
                pairs=length * (length + 1) // 2,
                images=int(sample.image is not None),
            )
        return total


class StepTimes(transformers.TrainerCallback):
    """Callback that records losses and the end time of each step on an idle device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Record the time before the first batch."""
        del args, kwargs
        self._mark()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Record the end of a step."""
        del args, kwargs
        self._mark()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the loss of a step."""
        del args, state, control
        if "loss" in kwargs["logs"]:
            self.losses.append(float(kwargs["logs"]["loss"]))

    def _mark(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.ends.append(time.perf_counter())


def run_hugging_face(
    batch_size: int, plan: Plan, shape: Shape, chat: ChatFormat, sources: Sources
) -> Timing:
    """Train a new random LLaVA for a few steps; padded batches accumulate to the same step."""
    data, clock = Decoded(plan, shape, chat, sources), StepTimes(plan.device)
    collator = PaddingCollator(chat.pad_token_id)
    model = build_llava(shape, chat, plan.device)
    model.requires_grad_(requires_grad=False)
    model.model.multi_modal_projector.requires_grad_(requires_grad=True)
    if plan.stage == 2:
        model.model.language_model.requires_grad_(requires_grad=True)
        model.lm_head.requires_grad_(requires_grad=True)
    per_step = len(data) // plan.num_steps
    with tempfile.TemporaryDirectory() as folder:
        trainer = OrderedTrainer(
            model=model,
            args=_arguments(folder, plan, batch_size, per_step),
            train_dataset=data,
            data_collator=collator,
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        optimizer: Any = trainer.optimizer
        optimizer = getattr(optimizer, "optimizer", optimizer)
    taken = per_step // batch_size * batch_size
    work = data.work(plan.num_warm * taken, plan.num_steps * taken)
    meta = flop_model(build_ours(shape, chat, torch.device("meta")))
    return Timing(
        seconds=clock.ends[-1] - clock.ends[plan.num_warm],
        work=work,
        flops=meta.step(work, is_stage_2=plan.stage == 2),
        num_samples=plan.num_timed * taken,
        num_positions=0,
        first_step_s=clock.ends[1] - clock.ends[0],
        data_wait_s=None,
        losses=clock.losses,
        optimizer=f"{type(optimizer).__module__.split('.')[0]}.{type(optimizer).__name__}",
    )


def _arguments(
    folder: str, plan: Plan, batch_size: int, per_step: int
) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        output_dir=folder,
        max_steps=plan.num_steps,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=per_step // batch_size,
        learning_rate=1e-5,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=True,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        optim="adamw_bnb_8bit" if plan.stage == 2 else "adamw_torch_fused",
        dataloader_num_workers=plan.num_workers,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=plan.device.type == "cpu",
        remove_unused_columns=False,
        disable_tqdm=True,
        dataloader_pin_memory=plan.device.type == "cuda",
    )

"""Training throughput on CPU: our step against Hugging Face Trainer + LlavaForConditionalGeneration.

Both sides train the same tiny model (random weights, Llama d=192, 4 layers, vocabulary 4096, MLP
connector) on the same samples in the same order with the same AdamW, and both get the tower's
features ready made: what is compared is packing with a document mask and label-only logits against
padded batches with full logits. Two baselines: samples in stream order (LLaVA stage 1, and the
Trainer's default) and sorted by length within each step (the most that padding can do).

    python -m benchmarks.train_step --threads 2
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from core.chat import EMBEDDED, ChatFormat, PromptStyle, load_tokenizer
from core.rng import FeistelPermutation, named_rng
from core.samples import SampleRef, StepBatch
from core.tokens import IGNORE_INDEX
from datamodules.collate import ReadySample, collate_micro_batch
from datamodules.encode import encode_sample
from datamodules.plan import plan_step
from datamodules.sources import Source
from lightning_modules.optim import OptimConfig
from lightning_modules.vlm_module import InstructionModule
from models.connector import ConnectorConfig, ConnectorKind, build_connector
from models.vlm import VisionLanguageModel

FOLDER = Path(__file__).parents[1] / "data" / "embedded"
SHARES = {"emoji_instruct_en": 38, "emoji_instruct_eu": 10, "chat_eu": 12, "text_eu": 4}
"""Samples per optimizer step by source: stage 2 of the embedded profile."""

WIDTH, NUM_IMAGE_TOKENS, LR = 192, 5, 1e-3
MICRO_BATCH_TOKENS, ROW_TOKENS, HF_BATCH = 4096, 256, 16
WARM_STEPS = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """One run of one side."""

    seconds: float
    """Of the steps after the warm-up."""
    losses: list[float]
    density: float


def main() -> None:
    """Alternate the sides, print the table and the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=None, help="also write the numbers here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    chat = ChatFormat(
        load_tokenizer(FOLDER / "models" / "lm_general"),
        EMBEDDED,
        num_image_tokens=NUM_IMAGE_TOKENS,
    )
    num_steps = options.steps + WARM_STEPS
    steps = stream(chat, num_steps)
    by_length = [sorted(step, key=lambda sample: sample.encoded.num_tokens) for step in steps]
    initial = build_llava(chat)
    sides = {
        "ours": lambda: run_ours(initial, steps, chat),
        "hf": lambda: run_hugging_face(initial, steps, chat),
        "hf sorted": lambda: run_hugging_face(initial, by_length, chat),
    }
    runs: dict[str, list[Result]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, side in sides.items():
            runs[name].append(side())
    report(runs, num_tokens=count_tokens(steps[WARM_STEPS:]), path=options.json)


def report(runs: dict[str, list[Result]], *, num_tokens: int, path: Path | None) -> None:
    """Median throughput, ratios of the same round, agreement of the loss curves."""
    numbers: dict[str, Any] = {}
    for name, results in runs.items():
        speed = statistics.median(num_tokens / result.seconds for result in results)
        ratios = [
            result.seconds / ours.seconds
            for ours, result in zip(runs["ours"], results, strict=True)
        ]
        curves = zip(runs["ours"][0].losses, results[0].losses, strict=True)
        numbers[name] = {
            "tokens_per_second": round(speed),
            "ours_is_faster_by": round(statistics.median(ratios), 2),
            "density": round(results[0].density, 4),
            "largest_loss_difference": max(abs(a - b) for a, b in curves),
            "loss": [round(results[0].losses[0], 4), round(results[0].losses[-1], 4)],
        }
        print(f"{name:<10}", numbers[name])
    ratio, density = numbers["hf"]["ours_is_faster_by"], numbers["ours"]["density"]
    agree = max(numbers[name]["largest_loss_difference"] for name in runs) <= 1e-3
    passed = ratio >= 2.5 and density >= 0.97 and agree
    print(f"ratio {ratio} (bar 2.5), density {density} (bar 0.97), curves agree: {agree}")
    print("PASS" if passed else "FAIL")
    if path is not None:
        path.write_text(json.dumps(numbers, indent=2) + "\n")


# --- data ---


def stream(chat: ChatFormat, num_steps: int) -> list[list[ReadySample]]:
    """The samples of every step: real text, features drawn at random once per sample."""
    rng = named_rng(0, "benchmark", "features")
    columns = []
    for name, count in SHARES.items():
        source = Source(FOLDER / f"{name}.manifest.json")
        order = FeistelPermutation(len(source), 0, name)(np.arange(len(source)))
        chosen = np.resize(order, num_steps * count)
        column = [_ready(source, int(index), chat, rng) for index in chosen]
        columns.append([column[i * count : (i + 1) * count] for i in range(num_steps)])
    steps = [[sample for part in parts for sample in part] for parts in zip(*columns, strict=True)]
    orders = [named_rng(0, "benchmark", "order", i).permutation(len(s)) for i, s in enumerate(steps)]
    return [[step[i] for i in order] for step, order in zip(steps, orders, strict=True)]


def _ready(source: Source, index: int, chat: ChatFormat, rng: np.random.Generator) -> ReadySample:
    sample = source.read(index)
    encoded = encode_sample(sample, chat, PromptStyle.CHAT)
    ref = SampleRef(
        position=index,
        source=sample.source,
        language=sample.language,
        key=sample.key,
        num_tokens=encoded.num_tokens,
        num_targets=encoded.num_targets,
    )
    features = torch.from_numpy(rng.normal(size=(NUM_IMAGE_TOKENS, WIDTH)).astype(np.float32))
    return ReadySample(
        ref=ref, encoded=encoded, image=features if sample.image is not None else None
    )


def count_tokens(steps: Sequence[Sequence[ReadySample]]) -> int:
    """Tokens without padding."""
    return sum(sample.encoded.num_tokens for step in steps for sample in step)


# --- the model, once for both ---


class CachedTower(nn.Module):
    """Stands where LLaVA's vision tower stands; its "pixels" are the features already."""

    def forward(self, features_NPE: torch.Tensor, **_: Any) -> Any:
        """Pretend that they are the last but one hidden state, behind a class token."""
        hidden = nn.functional.pad(features_NPE, (0, 0, 1, 0))
        return transformers.modeling_outputs.BaseModelOutputWithPooling(
            hidden_states=(hidden, hidden)
        )


def build_llava(chat: ChatFormat) -> LlavaForConditionalGeneration:
    """LLaVA with the embedded language model's shape and random weights."""
    text = LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=4096,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=4, image_size=8, patch_size=8
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
    """A second model with the same weights."""
    model = build_llava(chat)
    model.load_state_dict(llava.state_dict())
    return model


def our_model(llava: LlavaForConditionalGeneration, chat: ChatFormat) -> VisionLanguageModel:
    """LLaVA's weights in our composition."""
    connector = build_connector(
        ConnectorConfig(kind=ConnectorKind.MLP2X_GELU),
        vision_width=WIDTH,
        model_width=WIDTH,
        seed=0,
    )
    connector.load_state_dict(llava.model.multi_modal_projector.state_dict())
    language_model = transformers.LlamaForCausalLM(llava.config.text_config)
    language_model.model.load_state_dict(llava.model.language_model.state_dict())
    return VisionLanguageModel(
        None, connector, language_model, image_token_id=chat.image_token_id
    )


# --- ours ---


class PackedSteps(IterableDataset[StepBatch]):
    """Plan, pack and collate every step, as the DataModules do."""

    def __init__(self, steps: Sequence[Sequence[ReadySample]], pad_token_id: int) -> None:
        super().__init__()
        self.steps, self.pad_token_id = steps, pad_token_id
        self.num_positions = 0

    def __iter__(self) -> Iterator[StepBatch]:
        """Yield the steps."""
        for number, samples in enumerate(self.steps):
            lengths = np.asarray([sample.encoded.num_tokens for sample in samples])
            (plan,) = plan_step(lengths, 1, MICRO_BATCH_TOKENS, ROW_TOKENS)
            micro_batches = tuple(
                collate_micro_batch(
                    [[samples[i] for i in row] for row in rows],
                    pad_token_id=self.pad_token_id,
                    is_features=True,
                )
                for rows in plan
            )
            self.num_positions += sum(mb.input_ids_BT.numel() for mb in micro_batches)
            yield StepBatch(step=number, micro_batches=micro_batches)


class Clock:
    """End times and losses of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[float] = []
        self.losses: list[float] = []

    @property
    def seconds(self) -> float:
        """From the end of the warm-up to the end of the last step."""
        return self.ends[-1] - self.ends[WARM_STEPS - 1]


class OurClock(Clock, lightning.Callback):
    """Hooked into Lightning."""

    def on_train_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """One step is over."""
        del args, kwargs
        self.ends.append(time.perf_counter())
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


class TheirClock(Clock, transformers.TrainerCallback):
    """Hooked into the Trainer."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """One step is over."""
        del args, kwargs
        self.ends.append(time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The loss of one step."""
        del args, state, control
        if "loss" in kwargs["logs"]:
            self.losses.append(float(kwargs["logs"]["loss"]))


def run_ours(
    llava: LlavaForConditionalGeneration, steps: Sequence[Sequence[ReadySample]], chat: ChatFormat
) -> Result:
    """The Lightning module of stage 2 on packed steps."""
    optim = OptimConfig(lr=LR, warmup_fraction=0.0, min_lr_fraction=1.0)
    module = InstructionModule(our_model(llava, chat), optim=optim, num_steps=len(steps))
    data, clock = PackedSteps(steps, chat.pad_token_id), OurClock()
    trainer = lightning.Trainer(
        max_steps=len(steps),
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[clock],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=None))
    density = count_tokens(steps) / data.num_positions
    return Result(seconds=clock.seconds, losses=clock.losses, density=density)


# --- theirs ---


class Flat(Dataset[ReadySample]):
    """All samples in order."""

    def __init__(self, steps: Sequence[Sequence[ReadySample]]) -> None:
        self.samples = [sample for step in steps for sample in step]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __getitem__(self, index: int) -> ReadySample:
        """One sample."""
        return self.samples[index]


class PaddingCollator:
    """Pads to the longest of the batch, as LLaVA's collator does."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id, self.num_positions = pad_token_id, 0

    def __call__(self, samples: Sequence[ReadySample]) -> dict[str, torch.Tensor]:
        """Make one batch."""
        shape = len(samples), max(sample.encoded.num_tokens for sample in samples)
        ids, labels = torch.full(shape, self.pad_token_id), torch.full(shape, IGNORE_INDEX)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, sample in enumerate(samples):
            tokens = torch.from_numpy(sample.encoded.input_ids_T)
            is_target = torch.from_numpy(sample.encoded.target_mask_T)
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
            labels[row, : len(tokens)] = torch.where(is_target, tokens, IGNORE_INDEX)
        self.num_positions += ids.numel()
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        images = [sample.image for sample in samples if sample.image is not None]
        return batch | ({"pixel_values": torch.stack(images)} if images else {})


class OrderedTrainer(transformers.Trainer):
    """The Trainer with samples in the given order."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return torch.utils.data.SequentialSampler(self.train_dataset)


def run_hugging_face(
    llava: LlavaForConditionalGeneration, steps: Sequence[Sequence[ReadySample]], chat: ChatFormat
) -> Result:
    """The Trainer on padded batches of 16, accumulated to the same step."""
    collator, clock = PaddingCollator(chat.pad_token_id), TheirClock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=len(steps),
            per_device_train_batch_size=HF_BATCH,
            gradient_accumulation_steps=len(steps[0]) // HF_BATCH,
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
            model=clone(llava, chat),
            args=arguments,
            train_dataset=Flat(steps),
            data_collator=collator,
            callbacks=[clock],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    density = count_tokens(steps) / collator.num_positions
    return Result(seconds=clock.seconds, losses=clock.losses, density=density)


if __name__ == "__main__":
    main()

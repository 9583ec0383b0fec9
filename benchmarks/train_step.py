"""Training throughput on CPU: our step against Hugging Face Trainer + LLaVA.

Both sides (theirs is `llava_baseline`) train the same tiny model (random weights, Llama d=192,
4 layers, vocabulary 4096, MLP connector) on the same samples in the same order with the same
AdamW, and both get the tower's features ready made: what is compared is packing with a document
mask and label-only logits against padded batches with full logits. Two baselines: samples in stream
order (LLaVA stage 1, and the Trainer's default) and sorted by length within each step (the most
that padding can do).

    python -m benchmarks.train_step --threads 2
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import transformers
from torch.utils.data import DataLoader, IterableDataset
from transformers import LlavaForConditionalGeneration

from benchmarks.llava_baseline import (
    LR,
    NUM_IMAGE_TOKENS,
    WARM_STEPS,
    WIDTH,
    Clock,
    Result,
    build_llava,
    count_tokens,
    read_clock,
    run_hugging_face,
    set_clock,
)
from core.chat import EMBEDDED, ChatFormat, PromptStyle, load_tokenizer
from core.rng import FeistelPermutation, named_rng
from core.samples import SampleRef, StepBatch
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

MICRO_BATCH_TOKENS, ROW_TOKENS = 4096, 256


def main() -> None:
    """Alternate the sides, print the table and the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hf-batch", type=int, default=16, help="LLaVA-1.5 trains with 16")
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="count this process's CPU seconds, not the wall clock: for a busy machine, 1 thread",
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the numbers here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    set_clock(cpu_seconds=options.cpu_seconds)
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
    initial, batch = build_llava(chat), options.hf_batch
    sides = {
        "ours": lambda: run_ours(initial, steps, chat),
        "hf": lambda: run_hugging_face(initial, steps, chat, batch_size=batch),
        "hf sorted": lambda: run_hugging_face(initial, by_length, chat, batch_size=batch),
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
    orders = [
        named_rng(0, "benchmark", "order", i).permutation(len(s)) for i, s in enumerate(steps)
    ]
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


# --- ours ---


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
    return VisionLanguageModel(None, connector, language_model, image_token_id=chat.image_token_id)


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


class OurClock(Clock, lightning.Callback):
    """Hooked into Lightning."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """One step is over."""
        del trainer, args
        self.ends.append(read_clock())
        self.losses.append(float(pl_module.step_metrics["train/loss"]))


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


if __name__ == "__main__":
    main()

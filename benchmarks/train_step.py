"""Compare the training throughput on CPU with LLaVA and the Hugging Face Trainer.

Both sides (the baseline is `llava_baseline`) train the model of the embedded profile (Llama shape,
random weights, MLP connector) on the same questions in the same steps with the same AdamW and
cached tower features. The comparison is packing with a document mask, shared image prefixes and
label-only logits against padded batches with full logits. There are two recipes: `shared_prefix` as
in the embedded profile, where stock LLaVA trains each question as a separate sample (the loss
curves are equal), and `chat`, with whole conversations on both sides. There are two baselines:
samples in stream order (LLaVA stage 1 and the default of the Trainer) and sorted by length within
each step (the best case for padding).

Our step is also reported as a fraction of the highest throughput of plain matrix products with the
shapes of this model, measured in the same run. `benchmarks.gpu_step.flops` defines which operations
are counted.

    python -m benchmarks.train_step --threads 2
"""

import argparse
import dataclasses
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

from benchmarks.gpu_step.flops import flop_model, work_of
from benchmarks.llava_baseline import (
    LR,
    NUM_IMAGE_TOKENS,
    VISION_WIDTH,
    WARM_STEPS,
    Clock,
    Result,
    build_llava,
    count_tokens,
    read_clock,
    run_hugging_face,
    set_clock,
)
from benchmarks.matmul_peak import measure_peak
from configuration.run_config import INSTRUCT_POLICY
from core.chat.format import ChatFormat, PromptStyle, load_tokenizer
from core.chat.templates import EMBEDDED
from core.rng import FeistelPermutation, named_rng
from core.samples import EncodedSample, Sample, SampleRef, StepBatch
from datamodules.batches.collate import ReadySample, collate_micro_batch
from datamodules.batches.encode import encode_sample
from datamodules.batches.packing import plan_step
from datamodules.shards.source import Source
from lightning_modules.optim import OptimConfig
from lightning_modules.vlm_module import VlmModule
from models.connector import ConnectorConfig, build_connector
from models.vlm import VisionLanguageModel

FOLDER = Path(__file__).parents[1] / "data" / "embedded"
SHARES = {"emoji_instruct_en": 38, "emoji_instruct_eu": 10, "chat_eu": 12, "text_eu": 4}
"""Samples per optimizer step by source: three times stage 2 of the embedded profile at 20 %."""

MICRO_BATCH_TOKENS, ROW_TOKENS = 4096, 192


def main() -> None:
    """Run the sides alternately and print the table and the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--recipe", choices=["shared_prefix", "chat"], default="shared_prefix")
    parser.add_argument(
        "--hf-batch",
        type=int,
        default=16,
        help="batch size of LLaVA (default: 16, as in LLaVA-1.5)",
    )
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="measure the CPU time of this process instead of wall time (busy machine, 1 thread)",
    )
    parser.add_argument(
        "--json", type=Path, default=None, help="also write the figures to this file"
    )
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
    style, batch = PromptStyle(options.recipe), options.hf_batch
    drawn = draw(options.steps + WARM_STEPS, in_batches_of=batch, style=style)
    features = named_rng(0, "benchmark", "features")
    ours = [[_ready(one, chat, style, features) for one in step] for step in drawn]
    theirs = [[alone for one in step for alone in _alone(one)] for step in ours]
    by_length = [sorted(step, key=lambda sample: sample.encoded.num_tokens) for step in theirs]
    initial = build_llava(chat)
    sides = {
        "ours": lambda: run_ours(initial, ours, chat),
        "hf": lambda: run_hugging_face(initial, theirs, chat, batch_size=batch),
        "hf sorted": lambda: run_hugging_face(initial, by_length, chat, batch_size=batch),
    }
    runs: dict[str, list[Result]] = {name: [] for name in sides}
    peaks = []
    for _ in range(options.rounds):
        for name, side in sides.items():
            runs[name].append(side())
        peaks.append(measure_peak(initial, MICRO_BATCH_TOKENS, clock=read_clock))
    report(
        runs,
        num_tokens=count_tokens(theirs[WARM_STEPS:]),
        num_operations=count_operations(our_model(initial, chat), ours[WARM_STEPS:], chat),
        peak=max(peaks),
        path=options.json,
    )


def report(
    runs: dict[str, list[Result]],
    *,
    num_tokens: int,
    num_operations: float,
    peak: float,
    path: Path | None,
) -> None:
    """Print the median throughput, the ratios per round and the agreement of the losses.

    Args:
        runs: Results of each side, one per round.
        num_tokens: Tokens of all measured steps with separate questions, without padding.
        num_operations: Floating-point operations of all measured steps of our side.
        peak: Operations per second of plain matrix products.
        path: JSON file for the figures, if wanted.
    """
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
    seconds = statistics.median(result.seconds for result in runs["ours"])
    numbers["peak"] = {
        "gflops_of_matrix_products": round(peak / 1e9, 1),
        "gflop_per_step": round(num_operations / len(runs["ours"][0].losses[WARM_STEPS:]) / 1e9, 2),
        "fraction_reached_by_ours": round(num_operations / seconds / peak, 3),
    }
    print(f"{'peak':<10}", numbers["peak"])
    ratio, density = numbers["hf"]["ours_is_faster_by"], numbers["ours"]["density"]
    agree = max(numbers[name]["largest_loss_difference"] for name in runs) <= 1e-3
    passed = ratio >= 2.5 and density >= 0.97 and agree
    print(f"ratio {ratio} (required 2.5), density {density} (required 0.97), curves agree: {agree}")
    print("PASS" if passed else "FAIL")
    if path is not None:
        path.write_text(json.dumps(numbers, indent=2) + "\n")


# --- data ---


def draw(num_steps: int, *, in_batches_of: int, style: PromptStyle) -> list[list[Sample]]:
    """Draw the samples of every step.

    With separate questions, the longest conversations lose some of them, so that every step has the
    same number of questions in full batches, which the Trainer requires.
    """
    columns = []
    for name, count in SHARES.items():
        source = Source(FOLDER / f"{name}.manifest.json")
        order = FeistelPermutation(len(source), 0, name)(np.arange(len(source)))
        chosen = [source.read(int(i)) for i in np.resize(order, num_steps * count)]
        columns.append([chosen[i * count : (i + 1) * count] for i in range(num_steps)])
    steps = [[sample for part in parts for sample in part] for parts in zip(*columns, strict=True)]
    if style is PromptStyle.SHARED_PREFIX:
        wanted = min(map(_num_alone, steps)) // in_batches_of * in_batches_of
        for step in steps:
            while _num_alone(step) > wanted:
                longest = max(range(len(step)), key=lambda i: _questions(step[i]))
                turns = step[longest].turns[:-2]
                step[longest] = dataclasses.replace(step[longest], turns=turns)
    rngs = [named_rng(0, "benchmark", "order", i) for i in range(num_steps)]
    return [
        [step[i] for i in r.permutation(len(step))] for step, r in zip(steps, rngs, strict=True)
    ]


def _questions(sample: Sample) -> int:
    """Return the number of sequences of a sample with separate questions."""
    return len(sample.turns) // 2 if sample.image is not None else 1


def _num_alone(step: Sequence[Sample]) -> int:
    return sum(map(_questions, step))


def _ready(
    sample: Sample, chat: ChatFormat, style: PromptStyle, rng: np.random.Generator
) -> ReadySample:
    """Encode a sample and attach fixed random features."""
    encoded = encode_sample(sample, chat, style)
    features = torch.from_numpy(
        rng.normal(size=(NUM_IMAGE_TOKENS, VISION_WIDTH)).astype(np.float32)
    )
    image = features if sample.image is not None else None
    return ReadySample(ref=_ref(sample.source, sample.key, encoded), encoded=encoded, image=image)


def _alone(ready: ReadySample) -> list[ReadySample]:
    """Return each question with the image as a separate sample, as stock LLaVA trains it."""
    encoded, branches_T = ready.encoded, ready.encoded.branch_ids_T
    alone = []
    for branch in range(1, int(branches_T.max()) + 1):
        seen_T = (branches_T == 0) | (branches_T == branch)
        one = dataclasses.replace(
            encoded,
            input_ids_T=encoded.input_ids_T[seen_T],
            loss_mask_T=encoded.loss_mask_T[seen_T],
            branch_ids_T=np.zeros(int(seen_T.sum()), dtype=np.int64),
        )
        alone.append(
            dataclasses.replace(ready, ref=_ref(ready.ref.source, ready.ref.key, one), encoded=one)
        )
    return alone or [ready]


def _ref(source: str, key: str, encoded: EncodedSample) -> SampleRef:
    return SampleRef(
        position=0,
        source=source,
        language=source[-2:],
        key=key,
        num_tokens=encoded.num_tokens,
        num_loss_tokens=encoded.num_loss_tokens,
    )


# --- ours ---


def our_model(llava: LlavaForConditionalGeneration, chat: ChatFormat) -> VisionLanguageModel:
    """Build our model with the weights of LLaVA."""
    connector = build_connector(
        ConnectorConfig(kind="mlp2x_gelu"),
        vision_width=VISION_WIDTH,
        model_width=llava.config.text_config.hidden_size,
        seed=0,
    )
    connector.load_state_dict(llava.model.multi_modal_projector.state_dict())
    language_model = transformers.LlamaForCausalLM(llava.config.text_config)
    language_model.model.load_state_dict(llava.model.language_model.state_dict())
    return VisionLanguageModel(None, connector, language_model, image_token_id=chat.image_token_id)


class PackedSteps(IterableDataset[StepBatch]):
    """Dataset that plans, packs and collates every step as the data modules do."""

    def __init__(self, steps: Sequence[Sequence[ReadySample]], chat: ChatFormat) -> None:
        super().__init__()
        self.steps, self.chat = steps, chat
        self.num_positions = 0

    def __iter__(self) -> Iterator[StepBatch]:
        """Yield the batches of all steps."""
        for number, samples in enumerate(self.steps):
            lengths = np.asarray([sample.encoded.num_tokens for sample in samples])
            (plan,) = plan_step(lengths, 1, MICRO_BATCH_TOKENS, ROW_TOKENS)
            micro_batches = tuple(
                collate_micro_batch(
                    [[samples[i] for i in row] for row in rows],
                    pad_token_id=self.chat.pad_token_id,
                    image_token_id=self.chat.image_token_id,
                    is_features=True,
                )
                for rows in plan
            )
            self.num_positions += sum(mb.input_ids_BT.numel() for mb in micro_batches)
            yield StepBatch(step=number, micro_batches=micro_batches)


def count_operations(
    model: VisionLanguageModel, steps: Sequence[Sequence[ReadySample]], chat: ChatFormat
) -> float:
    """Return the floating-point operations of all steps, forward and backward."""
    batches = [batch for step in PackedSteps(steps, chat) for batch in step.micro_batches]
    return flop_model(model).step(work_of(batches), is_stage_2=True)


class OurClock(Clock, lightning.Callback):
    """Lightning callback that records times and losses."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        """Record the end of a step."""
        del trainer, args
        self.ends.append(read_clock())
        self.losses.append(float(pl_module.step_metrics["train/loss"]))


def run_ours(
    llava: LlavaForConditionalGeneration, steps: Sequence[Sequence[ReadySample]], chat: ChatFormat
) -> Result:
    """Train the Lightning module of stage 2 on packed steps."""
    optim = OptimConfig(lr=LR, warmup_fraction=0.0, min_lr_fraction=1.0)
    module = VlmModule(
        our_model(llava, chat), policy=INSTRUCT_POLICY, optim=optim, num_steps=len(steps)
    )
    data, clock = PackedSteps(steps, chat), OurClock()
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

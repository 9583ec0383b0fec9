"""Compare the training throughput of ready-made classes with that of the Hugging Face Trainer.

Both sides train the same random checkpoint on the same samples in the same steps with the same
AdamW and the same frozen parts, and both read shards, tokenize, and run the image processor of the
class in every step. Ours is the data module and the module of a stage run: packed rows, logits
where labels are. The baseline is the stock Trainer, with batches that the processor of the class
pads; in stream order, or sorted by length within each step (the best case for padding). The loss
curves must be equal.

    python -m benchmarks.ready_made_step --threads 1 --cpu-seconds
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.llava_baseline import WARM_STEPS, Result, set_clock
from benchmarks.ready_made_step.baseline import encode_all, run_trainer
from benchmarks.ready_made_step.checkpoints import CLASSES, SIZES, write_model
from benchmarks.ready_made_step.ours import build_data, planned_samples, run_ours, stream_config
from core.chat.ready_made import ReadyMadeChat
from datamodules.mixture_datamodule import StreamConfig

REQUIRED_RATIO = 1.5
_LARGEST_LOSS_DIFFERENCE = 1e-3


def main() -> int:
    """Measure every class and print a table; returns 1 if one misses the goal."""
    options = parse()
    torch.set_num_threads(options.threads)
    set_clock(cpu_seconds=options.cpu_seconds)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found: dict[str, Any] = {}
    for name in options.classes:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = write_model(name, options.size, Path(folder) / "model")
            found[name] = measure(checkpoint, stream_config(options.size), Path(folder), options)
        print(f"{name:<16}", json.dumps(found[name]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    failed = [name for name, numbers in found.items() if not numbers["passed"]]
    print("PASS" if not failed else f"FAIL: {', '.join(failed)}")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=CLASSES)
    parser.add_argument("--size", choices=SIZES, default="small", help="size of the checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hf-batch", type=int, default=16, help="batch size of the Trainer")
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="measure the CPU time of this process instead of wall time (busy machine, 1 thread)",
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the figures here")
    return parser.parse_args()


def measure(
    checkpoint: Path, stream: StreamConfig, folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Run the sides alternately and return the figures of one class.

    Args:
        checkpoint: Model and processor.
        stream: Data and batches; the batches of the baseline must fill each step.
        folder: Folder for the lengths of samples.
        options: Numbers of steps and rounds, and the batch size of the baseline.
    """
    num_steps = options.steps + WARM_STEPS
    data = build_data(checkpoint, stream, num_steps=num_steps, cache=folder)
    if not isinstance(data.chat, ReadyMadeChat):
        raise TypeError(f"the chat format of {checkpoint} is {type(data.chat).__name__}")
    chat, steps = data.chat, planned_samples(data)
    encoded, batch = encode_all(steps, chat), options.hf_batch
    by_length = [sorted(step, key=lambda sample: sample.num_tokens) for step in steps]
    sides = {
        "ours": lambda: run_ours(checkpoint, stream, num_steps=num_steps, cache=folder),
        "hf": lambda: run_trainer(checkpoint, steps, chat, encoded, batch_size=batch),
        "hf sorted": lambda: run_trainer(checkpoint, by_length, chat, encoded, batch_size=batch),
    }
    runs: dict[str, list[Result]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side, run in sides.items():
            runs[side].append(run())
    num_tokens = sum(sample.num_tokens for step in steps[WARM_STEPS:] for sample in step)
    return summarise(runs, num_tokens)


def summarise(runs: dict[str, list[Result]], num_tokens: int) -> dict[str, Any]:
    """Return medians of the throughput, ratios within rounds and the agreement of the losses.

    Args:
        runs: Results of each side, one per round.
        num_tokens: Tokens of all measured steps, without padding.
    """
    ours = runs["ours"]
    found: dict[str, Any] = {}
    for side, results in runs.items():
        ratios = [b.seconds / a.seconds for a, b in zip(ours, results, strict=True)]
        curves = zip(ours[0].losses, results[0].losses, strict=True)
        found[side] = {
            "tokens_per_second": round(
                statistics.median(num_tokens / result.seconds for result in results)
            ),
            "ours_is_faster_by": [round(ratio, 2) for ratio in sorted(ratios)],
            "density": round(results[0].density, 3),
            "largest_loss_difference": max(abs(a - b) for a, b in curves),
            "loss": [round(results[0].losses[0], 4), round(results[0].losses[-1], 4)],
        }
    ratio = statistics.median(b.seconds / a.seconds for a, b in zip(ours, runs["hf"], strict=True))
    agree = max(numbers["largest_loss_difference"] for numbers in found.values())
    passed = ratio >= REQUIRED_RATIO and agree <= _LARGEST_LOSS_DIFFERENCE
    return {**found, "ratio": round(ratio, 2), "passed": passed}


if __name__ == "__main__":
    raise SystemExit(main())

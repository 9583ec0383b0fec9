"""Measure what one rank pays in runs of 1 to 1,024 ranks, without the ranks.

The real stream, batch plan and checkpoint planning run at a global batch of 16,384 samples from
sources of 10^9 samples (8 GB of memory-mapped token counts, written for the measurement). Goodput
is simulated with published failure rates.

    python -m benchmarks.scale_simulation --json docs/benchmarks/scale.json
    python -m benchmarks.scale_simulation --samples 1000000 --ranks 1 64      # in seconds
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scale_simulation import checkpoints, data, failures
from datamodules.batches.step_dataset import global_batch

TOKENS_PER_S = 8000.0
"""Tokens per second and GPU, the target of stage 2 on an H100."""


def main(arguments: list[str] | None = None) -> int:
    """Measure every number of ranks and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--ranks", type=int, nargs="+", default=[1, 8, 64, 256, 1024])
    add("--samples", type=int, default=10**9, help="samples of all sources together")
    add("--batch", type=int, default=16_384, help="samples of a step, over all ranks")
    add("--steps", type=int, default=3, help="steps whose balance is measured")
    add("--folder", type=Path, help="where to write the token counts (default: a new folder)")
    add("--json", type=Path, help="file for the results")
    add("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rank is not None:  # a process of its own, started by measure_in_process
        (world_size,) = options.ranks
        cost = data.measure_rank(options.folder, options.samples, options.batch,
                                 rank=options.rank, world_size=world_size)  # fmt: skip
        print(json.dumps(dataclasses.asdict(cost)))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data.write_lengths(Path(folder), options.samples)
        rows = [measure(options, Path(folder), number) for number in options.ranks]
    for row in rows:
        print(json.dumps(row))
    if options.json:
        content = {"samples": options.samples, "batch": options.batch, "ranks": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(options: argparse.Namespace, folder: Path, num_ranks: int) -> dict[str, Any]:
    """Return everything about one number of ranks."""
    words = ["--samples", str(options.samples), "--batch", str(options.batch),
             "--folder", str(folder), "--ranks", str(num_ranks)]  # fmt: skip
    middle = num_ranks // 2
    rank = data.measure_in_process([*words, "--rank", str(middle)])
    opened = data.open_data(folder, options.samples, options.batch)
    balance = data.imbalance(opened, num_ranks, options.steps)
    checkpoint = checkpoints.measure(num_ranks)
    tokens = int(global_batch(opened, 0).num_tokens.sum())
    step_s = tokens / num_ranks / TOKENS_PER_S
    save_s = checkpoint.gib_per_file * 2**30 / failures.COPY_BYTES_PER_S
    hours = {"llama 3": failures.LLAMA_3_GPU_HOURS / num_ranks}
    hours |= {f"spot {h:g} h": h for h in failures.SPOT_HOURS}
    return {
        "ranks": num_ranks,
        **dataclasses.asdict(rank),
        "step_s": step_s,
        "plan_share_of_1_s": rank.plan_cpu_ms / 1000,
        "plan_share_of_step": rank.plan_cpu_ms / 1000 / step_s,
        "imbalance": balance,
        "checkpoint": dataclasses.asdict(checkpoint),
        "goodput": {name: failures.goodput(save_s, h) for name, h in hours.items()},
    }


if __name__ == "__main__":
    sys.exit(main())

"""Answers per second: batches with a shared cache against one question at a time.

    python -m benchmarks.evaluation_speed                    # a trained cell of mlruns
    python -m benchmarks.evaluation_speed --root /tmp/x --exp smoke

Three ways on the same trained cell, the same questions, the same features: `generate` of
transformers at batch 1 (what harnesses do), our loop at batch 1, our loop in batches. All answers
must be identical, or the exit code is 1.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from evaluation.answerer import VlmAnswerer
from evaluation.benchmark import BenchmarkItem, load_benchmark
from evaluation.prompting import load_prompts
from experiments.builders import VlmParts
from experiments.trained import add_grid_options, find_cells, load_cell

ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the three ways in turn and print ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--run", default="", metavar="CELL", help="cell (default: the first of the grid)")
    add("--items", type=int, default=240, help="questions (default: 240)")
    add("--batch", type=int, default=128, help="prompts per batch (default: 128)")
    add("--json", type=Path, help="write the numbers there")
    add_grid_options(parser)
    options = parser.parse_args(arguments)
    (cell,) = find_cells(options, [options.run or "share40_txt"])
    parts = load_cell(cell, torch.device("cpu"))
    spec = cell.evaluate_spec
    items = load_benchmark(Path(spec.manifest), languages=spec.languages)[: options.items]
    limit = spec.settings.max_new_tokens
    ways: dict[str, Callable[[], list[str]]] = {
        "generate, one at a time": lambda: _stock(parts, items, limit),
        "ours, one at a time": lambda: _ours(parts, items, limit, 1),
        "ours, in batches": lambda: _ours(parts, items, limit, options.batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for _ in range(ROUNDS):  # in turn, so that a slow minute hits all alike
        for name, way in ways.items():
            begin = time.perf_counter()
            answers[name] = way()
            seconds[name].append(time.perf_counter() - begin)
    rates = {name: len(items) / min(taken) for name, taken in seconds.items()}
    slowest = rates["generate, one at a time"]
    differing = sum(len(set(row)) > 1 for row in zip(*answers.values(), strict=True))
    for name, rate in rates.items():
        print(f"{name:26s} {rate:8.1f} answers/s   {rate / slowest:5.2f}x")
    print(
        f"{len(items)} questions, {len(set(answers['ours, in batches']))} different answers, ",
        end="",
    )
    print(f"{differing} differ between the ways; {torch.get_num_threads()} threads")
    if options.json:
        content = {"items": len(items), "answers_per_s": rates, "differing": differing}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(differing > 0)


def _ours(parts: VlmParts, items: Sequence[BenchmarkItem], limit: int, batch: int) -> list[str]:
    book = load_prompts({item.language for item in items})
    answerer = VlmAnswerer(
        parts.model, parts.chat, parts.pictures, max_new_tokens=limit, batch_size=batch
    )
    prompts = [book.encode(item, parts.chat) for item in items]
    return [reply.text for reply in answerer.answers(prompts, [item.image for item in items])]


@torch.no_grad()
def _stock(parts: VlmParts, items: Sequence[BenchmarkItem], limit: int) -> list[str]:
    book = load_prompts({item.language for item in items})
    answers = []
    for item in items:
        ids_BT = torch.from_numpy(book.encode(item, parts.chat))[None]
        picture = torch.as_tensor(parts.pictures(item.image))[None]
        tower = parts.model.tower
        features = tower(picture) if tower is not None and picture.ndim == 4 else picture
        embeds_BTD = parts.model.embed(ids_BT, features)
        new = parts.model.language_model.generate(
            inputs_embeds=embeds_BTD,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=parts.chat.end_token_id,
            pad_token_id=parts.chat.pad_token_id,
        )
        answers.append(parts.chat.decode(new[0].tolist()))
    return answers


if __name__ == "__main__":
    sys.exit(main())

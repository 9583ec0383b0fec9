"""Measure answers per second: prompts that share their heads against one question at a time.

    python -m benchmarks.evaluation_speed                    # a trained cell of mlruns
    python -m benchmarks.evaluation_speed --root /tmp/x --exp smoke
    python -m benchmarks.evaluation_speed --random           # no cell; 576 visual tokens

Five methods answer the same questions with the same model and features: `generate` of transformers
at batch size 1 (as harnesses do), our loop at batch size 1, our loop in batches in which every
prompt has its own copy of the image, our loop as evaluations use it, and the same on the blank
image. The exit code is 1 unless all answers about the images are identical.

`--random` uses a random Llama of 5 M parameters. Its answers are meaningless, but 576 visual tokens
before short questions have the same relative cost as at the paper's scale.
"""

import argparse
import dataclasses
import functools
import json
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import TEMPLATES
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.benchmarks.items import BenchmarkItem, load_benchmarks
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits
from evaluation.runner import blank_image
from experiments.cli import add_grid_options, request_of
from experiments.run_steps.planning import make_plan
from models.connector import ConnectorConfig, build_connector
from models.vlm import VisionLanguageModel
from serving.cell import TrainedCell, find_cells, load_cell

ROUNDS = 3
STOCK, BLIND = "generate, one at a time", "ours, on the blank image"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """Model, questions and features of one comparison."""

    model: VisionLanguageModel
    chat: ChatFormat
    features: Callable[[bytes], torch.Tensor]
    """Features (P, E) by image, computed once, as in grids."""
    items: Sequence[BenchmarkItem]
    limit: int

    def questions(self, image: bytes | None = None) -> list[VisualQuestion]:
        """Return all questions, each about its own image or about the given one."""
        book = load_prompts(
            {item.language for item in self.items}, limits=ReplyLimits(default=self.limit)
        )
        return [book.question(item, image=image) for item in self.items]

    def prompts(self) -> list[np.ndarray]:
        """Return the token ids of every prompt."""
        return [self.chat.encode_prompt(question.turns) for question in self.questions()]

    def ours(self, batch: int, *, image: bytes | None = None) -> list[str]:
        """Answer as an evaluation does, with one image for all questions if it is given."""
        answerer = VlmAnswerer(self.model, self.chat, self.features, batch_size=batch)
        return [reply.text for reply in answerer.answer(self.questions(image))]

    def apart(self, batch: int) -> list[str]:
        """Answer with a copy of the features for every prompt, so that no head is shared."""
        ids = self.model.generate(
            self.prompts(),
            [self.features(item.image).clone() for item in self.items],
            max_new_tokens=self.limit,
            end_token_id=self.chat.end_token_id,
            pad_token_id=self.chat.pad_token_id,
            batch_size=batch,
        )
        return [self.chat.decode(one) for one in ids]

    @torch.no_grad()
    def stock(self) -> list[str]:
        """Answer with `generate` of transformers."""
        answers = []
        for prompt, item in zip(self.prompts(), self.items, strict=True):
            ids_BT = torch.from_numpy(prompt)[None]
            new = self.model.language_model.generate(
                inputs_embeds=self.model.embed(ids_BT, self.features(item.image)[None]),
                attention_mask=torch.ones_like(ids_BT),
                max_new_tokens=self.limit,
                do_sample=False,
                eos_token_id=self.chat.end_token_id,
                pad_token_id=self.chat.pad_token_id,
            )
            answers.append(self.chat.decode(new[0].tolist()))
        return answers


def main(arguments: Sequence[str] | None = None) -> int:
    """Time the methods alternately and print their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--run", default="", metavar="CELL", help="cell (default: the first of the grid)")
    add("--items", type=int, default=240, help="number of questions (default: 240)")
    add("--batch", type=int, default=128, help="prompts per batch (default: 128)")
    add("--random", action="store_true", help="use a random model with 576 visual tokens")
    add("--json", type=Path, help="write the figures to this file")
    add_grid_options(parser, experiment="mix_ablation", omit=("--only",))
    options = parser.parse_args(arguments)
    request = request_of(options)
    names = [options.run or "share40_txt"]
    (cell,) = find_cells(make_plan(request), names, root=request.root)
    asked = (_random if options.random else _trained)(cell, options.items)
    ways: dict[str, Callable[[], list[str]]] = {
        STOCK: asked.stock,
        "ours, one at a time": lambda: asked.ours(1),
        "ours, in batches, no heads": lambda: asked.apart(options.batch),
        "ours, in batches": lambda: asked.ours(options.batch),
        BLIND: lambda: asked.ours(options.batch, image=blank_image()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for _ in range(ROUNDS):  # alternating, so that a slow minute affects all methods
        for name, way in ways.items():
            begin = time.perf_counter()
            answers[name] = way()
            seconds[name].append(time.perf_counter() - begin)
    rates = {name: len(asked.items) / min(taken) for name, taken in seconds.items()}
    seeing = [told for name, told in answers.items() if name != BLIND]
    differing = sum(len(set(row)) > 1 for row in zip(*seeing, strict=True))
    for name, rate in rates.items():
        print(f"{name:26s} {rate:8.1f} answers/s   {rate / rates[STOCK]:5.2f}x")
    images = len({item.image for item in asked.items})
    print(
        f"{len(asked.items)} questions on {images} images, {len(set(seeing[-1]))} different "
        f"answers, {differing} differ between the methods; {torch.get_num_threads()} threads"
    )
    if options.json:
        content = {"items": len(asked.items), "images": images, "answers_per_s": rates,
                   "differing": differing}  # fmt: skip
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return int(differing > 0)


def _items(cell: TrainedCell, number: int) -> list[BenchmarkItem]:
    """Return the items grouped by image, in the order of an evaluation."""
    spec = cell.evaluation
    items = load_benchmarks(map(Path, spec.benchmarks), languages=spec.languages)
    return sorted(items, key=lambda item: item.image_key)[:number]


def _trained(cell: TrainedCell, number: int) -> Asked:
    parts = load_cell(cell, torch.device("cpu"))

    @functools.cache
    @torch.no_grad()
    def features(image: bytes) -> torch.Tensor:
        found, tower = parts.encode_image(image), parts.model.tower
        return found if tower is None else tower(found[None])[0]

    return Asked(model=parts.model, chat=parts.chat, features=features,
                 items=_items(cell, number),
                 limit=cell.evaluation.settings.max_new_tokens)  # fmt: skip


def _random(cell: TrainedCell, number: int) -> Asked:
    path = cell.evaluation.model.language_model.path
    template = TEMPLATES[cell.evaluation.model.template]
    chat = ChatFormat(load_tokenizer(path), template, num_image_tokens=576)
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=256, intermediate_size=704, num_hidden_layers=6,
                         num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=len(chat.tokenizer))  # fmt: skip
    connector = build_connector(ConnectorConfig(), vision_width=64, model_width=256, seed=0)
    model = VisionLanguageModel(
        None, connector, LlamaForCausalLM(config), image_token_id=chat.image_token_id
    ).eval()

    @functools.cache
    def features(image: bytes) -> torch.Tensor:
        seeds = np.random.default_rng(zlib.crc32(image))
        return torch.from_numpy(seeds.normal(size=(576, 64))).float()

    return Asked(model=model, chat=chat, features=features, items=_items(cell, number), limit=4)


if __name__ == "__main__":
    sys.exit(main())

"""A miniature study on disk: images, conversations, a benchmark, models and a profile.

Everything is real but small, so that the real commands run on it in seconds: 24 images, a
byte-level tokenizer, a random two-layer language model and a random two-layer vision tower.
"""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import open_clip
import safetensors.torch
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from core.io.jsonl import read_jsonl
from datamodules.shards.manifest import Modality
from models.language.language_model import save_language_model
from tests.support.doubles import (
    caption_record,
    chat_record,
    make_tokenizer,
    write_shard,
    write_source,
)
from tests.support.servers import preloaded

REPOSITORY = Path(__file__).resolve().parents[2]
PROFILE = "tiny"
CELL = "share40_txt"
"""Part of the id of the cell of mix_ablation that most tests run."""
NAMES = ("sun sun", "moon hilargi", "tree zuhaitz", "house etxe", "dog txakur", "apple sagar")
_NUM_IMAGES, _NUM_TEXTS, _NUM_QUESTIONS = 24, 11, 4
_VISION = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16}
_TEXT = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
Process: TypeAlias = "subprocess.Popen[str] | preloaded.PreloadedProcess"
_PROFILE_TEXT = """\
languages: {base: en, target: eu}
cell: {backbone: general}
data: {folder: data, benchmarks: [benchmark_test]}
model:
  tower: {path: data/tower, feature: penultimate}
  connector: {kind: linear}
backbones:
  general: {path: data/lm, template: embedded}
align:
  num_steps: 60
  prompt_style: plain
  target_share: 0.8
  visual: {captions: {source: caption, samples_per_step: 7}}
  optim: {lr: 1.0e-3}
  micro_batch_tokens: 96
  row_tokens: 48
instruct:
  num_steps: 60
  prompt_style: shared_prefix
  visual: {conversations: {source: instruct, samples_per_step: 5}}
  text_only:
    chat: {source: chat, samples_per_step: 2}
    text: {source: text, samples_per_step: 1}
  optim: {lr: 1.0e-3}
  micro_batch_tokens: 192
  row_tokens: 96
evaluate:
  prompt_style: bare
  yes_no_policy: asked_language
  relaxed: true
  max_new_tokens: 8
  batch_size: 16
trainer: {checkpoint_every_n_steps: 7, log_every_n_steps: 1}
"""


def build_world(folder: Path) -> Path:
    """Fill a folder with data, models and the profile `tiny`; return the folder."""
    data = folder / "data"
    _write_images(data)
    _write_texts(data)
    _write_benchmark(data)
    _write_tower(data / "tower")
    _write_language_model(data / "lm")
    (folder / "configs").mkdir()
    (folder / "configs" / f"{PROFILE}.yaml").write_text(_PROFILE_TEXT)
    return folder


def environment() -> dict[str, str]:
    """Return the environment of a command that runs in another folder with one thread."""
    return os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def start(
    world: Path,
    *arguments: str,
    module: str = "experiments.run",
    variables: Mapping[str, str] = {},
    log: Path | None = None,
    is_fresh: bool = False,
) -> Process:
    """Start a command in its own process group, as a terminal would.

    The process is forked from a preloaded one unless `is_fresh`.

    Args:
        world: Working directory.
        arguments: The command line after the module.
        module: The command.
        variables: Further environment variables.
        log: File for the output; by default it goes to a pipe.
        is_fresh: Start a new interpreter.
    """
    output = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    merged = environment() | dict(variables)
    try:
        if preloaded.is_available() and not is_fresh:
            return preloaded.start(
                module, arguments, folder=world, environment=merged, output=output
            )
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=world,
            env=merged,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    finally:
        if output is not None:
            os.close(output)


def finish(process: Process, *, timeout_s: float = 240.0) -> tuple[int, str]:
    """Wait for a command and kill its group; return the exit code and the output."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    finally:
        kill_group(process)
    return process.returncode, output


def kill_group(process: Process) -> None:
    """Send SIGKILL to a command and all its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def grid_arguments(root: str, *more: str) -> tuple[str, ...]:
    """Return the command line of the grid with one cell."""
    only = ("--exp", "mix_ablation", "--profile", PROFILE, "--only", CELL)
    return (*only, "--jobs", "1", "--root", root, *more)


def stage_folder(root: Path, kind: str) -> Path:
    """Return the folder of the only stage run of a kind."""
    (folder,) = (root / "store" / kind).iterdir()
    return folder


def series(folder: Path, name: str = "train/loss") -> dict[int, float]:
    """Return a metric of a stage run by step; a step that was logged twice is an error."""
    values: dict[int, float] = {}
    for line in read_jsonl(folder / "metrics.jsonl"):
        if name in line["metrics"]:
            if line["step"] in values:
                raise ValueError(f"{name} was logged twice at step {line['step']}")
            values[line["step"]] = float(line["metrics"][name])
    return values


def wait_for_step(
    folder: Path, step: int, *, is_alive: Callable[[], bool], since: float, timeout_s: float = 120.0
) -> None:
    """Wait until a stage run has logged a step after the time `since`."""
    deadline = time.monotonic() + timeout_s
    path = folder / "metrics.jsonl"
    while is_alive() and time.monotonic() < deadline:
        lines = read_jsonl(path) if path.is_file() else []
        if lines and lines[-1]["step"] >= step and lines[-1]["time"] > since:
            return
        time.sleep(0.004)
    raise TimeoutError(f"{folder} did not reach step {step}")


def image(seed: int, *, size: int = 32) -> bytes:
    """Return a small image of coloured blocks that differs for every seed."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((size, size), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def image_sample(i: int) -> tuple[str, dict[str, Any], bytes]:
    """Return captions and conversations of an image in both languages, of various lengths."""
    english, basque = NAMES[i % len(NAMES)].split()
    turns = 1 + i % 3
    instruct = {
        "en": _conversation("What is this?", english, turns),
        "eu": _conversation("Zer da hau?", basque, turns),
    }
    caption = {"en": caption_record(english), "eu": caption_record(f"{basque} bat")}
    return f"image-{i:05d}", {"caption": caption, "instruct": instruct}, image(i)


def _conversation(question: str, answer: str, num_turns: int) -> dict[str, Any]:
    record = chat_record(question, answer, is_image=True)
    for _ in range(num_turns - 1):
        record["messages"] += chat_record(question, answer)["messages"]
    return record


def _write_images(data: Path) -> None:
    samples = [image_sample(i) for i in range(_NUM_IMAGES)]
    shards = (samples[:15], samples[15:])
    entries = [
        write_shard(data / f"train-{number:06d}.tar", shard) for number, shard in enumerate(shards)
    ]
    for record in ("caption", "instruct"):
        for tag in ("en", "eu"):
            name = f"{record}_{tag}"
            write_source(data, name, entries, language=tag, record=f"{record}.{tag}")


def _write_texts(data: Path) -> None:
    shard = [(f"text-{i:05d}", _text_content(i), None) for i in range(_NUM_TEXTS)]
    entry = write_shard(data / "text-000000.tar", shard)
    for record in ("chat", "text"):
        write_source(data, f"{record}_eu", [entry], modality=Modality.TEXT, record=f"{record}.eu")


def _text_content(i: int) -> dict[str, Any]:
    running = {"messages": [{"role": "text", "content": "kaixo mundua " * (i % 3 + 1)}]}
    chat = chat_record(f"Zenbat da {i}?", "bat " * (1 + i % 4))
    return {"chat": {"eu": chat}, "text": {"eu": running}}


def _write_benchmark(data: Path) -> None:
    samples = []
    for i in range(_NUM_QUESTIONS):
        english, basque = NAMES[i].split()
        question = {"en": "What is this?", "eu": "Zer da hau?"}
        common = {"question_type": "what", "question": question}
        vqa = {"question_id": f"{i}-vqa", "benchmark": "vqa", "answer_type": "other", **common,
               "answers": {"en": [english] * 10, "eu": [basque] * 10}}  # fmt: skip
        choices = {"en": [english, "b", "c", "d"], "eu": [basque, "e", "f", "g"]}
        asked = {tag: f"{question[tag]} {', '.join(choices[tag])}" for tag in question}
        choice = {"question_id": f"{i}-mc", "benchmark": "mc", "answer_type": "choice", **common,
                  "question": asked, "choices": choices, "correct_choice": 0}  # fmt: skip
        yes_no = {"question_id": f"{i}-qa", "benchmark": "capqa", "answer_type": "yes/no",
                  **common, "answers": {"en": ["yes"], "eu": ["bai"]}}  # fmt: skip
        items = {"items": [vqa, choice, yes_no]}
        samples.append((f"question-{i:05d}", items, image(1000 + i)))
    entry = write_shard(data / "benchmark-000000.tar", samples)
    write_source(data, "benchmark_test", [entry], language="en,eu", modality=Modality.BENCHMARK)


def _write_tower(folder: Path) -> None:
    torch.manual_seed(0)
    clip = open_clip.CLIP(8, vision_cfg=_VISION, text_cfg=_TEXT)
    folder.mkdir(parents=True)
    config = {
        "model_cfg": {"embed_dim": 8, "vision_cfg": _VISION, "text_cfg": _TEXT},
        "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: value.contiguous() for name, value in clip.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")


def _write_language_model(folder: Path) -> None:
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    save_language_model(folder, LlamaForCausalLM(config))
    tokenizer.save_pretrained(folder)


def run(world: Path, arguments: Sequence[str]) -> tuple[int, str]:
    """Run the main command to its end."""
    return finish(start(world, *arguments))

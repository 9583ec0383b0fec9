"""A model with the embedded convolutional tower in plain transformers, without this package."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from configuration.vlm_spec import VlmSpec
from core.chat.tokens import IMAGE_MARK
from core.samples import Role, Turn
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import BenchmarkItem, load_benchmark
from evaluation.benchmarks.questions import VisualQuestion
from models.connector import ConnectorConfig
from models.language.adapters import TuningConfig
from models.language.language_model import LanguageModelConfig
from models.towers.vision_tower import TowerFeature, VisionTowerConfig
from pipeline.assemble import VlmParts, assemble
from serving.export_check import check_export
from serving.hugging_face_export import write_model
from tests.support.small_world import REPOSITORY

pytestmark = pytest.mark.slow
EMBEDDED = REPOSITORY / "data" / "embedded"
NUM_ITEMS, NUM_NEW, NUM_DISTINCT = 24, 8, 4
PLAIN_TRANSFORMERS = """
import importlib.util, json, sys
import numpy as np, torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

assert not any(importlib.util.find_spec(name) for name in ("models", "core", "serving"))
asked = json.load(open("asked.json"))
model, info = AutoModelForImageTextToText.from_pretrained("export", output_loading_info=True)
assert not any(info.values()), info
processor = AutoProcessor.from_pretrained("export")
processor.image_processor = AutoImageProcessor.from_pretrained("export", backend="pil")
answers, logits = [], []
for name, question in asked["items"]:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(
        images=Image.open(name), text=text, add_special_tokens=False, return_tensors="pt"
    )
    with torch.no_grad():
        logits.append(model(**inputs).logits[0, -1].numpy())
    ids = model.generate(**inputs, max_new_tokens=asked["num_new"])
    new = ids[0, inputs["input_ids"].shape[1]:]
    answers.append(processor.decode(new, skip_special_tokens=True))
np.save("logits.npy", np.stack(logits))
json.dump([type(model).__name__, answers], open("answers.json", "w"))
"""


@pytest.fixture(scope="module")
def parts() -> VlmParts:
    """The embedded tower and language model, joined by a connector of a fixed seed."""
    tower = VisionTowerConfig(
        path=str(EMBEDDED / "models/tower"), feature=TowerFeature.POOLED_GRID, grids=(3,)
    )
    spec = VlmSpec(
        tower=tower,
        connector=ConnectorConfig(),
        language_model=LanguageModelConfig(path=str(EMBEDDED / "models/lm_general")),
        template="embedded",
    )
    parts = assemble(spec, features=None, tuning=TuningConfig(), trains_language_model=False)
    parts.model.eval()
    return parts


@pytest.fixture(scope="module")
def items() -> list[BenchmarkItem]:
    """Questions in both languages about different drawings of the benchmark."""
    found = load_benchmark(EMBEDDED / "benchmark_test.manifest.json")
    by_image = {item.image_key: item for item in reversed(found)}
    keys = sorted(by_image)[:: len(by_image) // NUM_ITEMS][:NUM_ITEMS]
    texts = {(item.image_key, item.language): item for item in found}
    return [texts[key, ("en", "eu")[number % 2]] for number, key in enumerate(keys)]


def ask(parts: VlmParts, items: list[BenchmarkItem]) -> tuple[list[str], np.ndarray]:
    """Return our answers, and the logits after each prompt (N, V)."""
    tower, questions, logits = parts.model.tower, [], []
    assert tower is not None
    for item in items:
        turns = (Turn(role=Role.USER, content=f"{IMAGE_MARK}\n{item.question}"),)
        questions.append(VisualQuestion(turns=turns, image=item.image, max_new_tokens=NUM_NEW))
        ids_BT = torch.from_numpy(parts.chat.encode_prompt(turns))[None]
        with torch.no_grad():
            pixels_CHW = tower.transform(item.image)
            embeds_BTD = parts.model.embed(ids_BT, tower(pixels_CHW[None]))
            logits.append(parts.model.language_model(inputs_embeds=embeds_BTD).logits[0, -1])
    answerer = VlmAnswerer(parts.model, parts.chat, parts.encode_image, batch_size=16)
    return [reply.text for reply in answerer.answer(questions)], torch.stack(logits).numpy()


def test_plain_transformers_gives_the_same_answers_about_drawings(
    tmp_path: Path, parts: VlmParts, items: list[BenchmarkItem]
) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    asking = AskingConfig(max_new_tokens=NUM_NEW)
    stock = write_model(folder, parts, asking, dtype=torch.float32, max_shard="5GB")
    assert stock.class_name == "FastVlmForConditionalGeneration"
    assert check_export(folder, parts).logits <= 1e-4
    names = []
    for number, item in enumerate(items):
        names.append(f"{number}.png")
        Image.open(io.BytesIO(item.image)).save(tmp_path / names[-1])
    asked = [(name, item.question) for name, item in zip(names, items, strict=True)]
    (tmp_path / "asked.json").write_text(json.dumps({"items": asked, "num_new": NUM_NEW}))
    command = [sys.executable, "-I", "-c", PLAIN_TRANSFORMERS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kind, theirs = json.loads((tmp_path / "answers.json").read_text())
    assert kind == stock.class_name
    ours, logits = ask(parts, items)
    assert np.abs(np.load(tmp_path / "logits.npy") - logits).max() <= 1e-4
    assert [answer.strip() for answer in theirs] == ours
    assert len(set(ours)) >= NUM_DISTINCT, "equal by chance"

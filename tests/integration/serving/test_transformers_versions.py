"""Exports in the oldest and newest supported transformers: equal token ids and answers.

Another version needs an environment of its own: give its Python in TRANSFORMERS_PYTHONS (several
are separated by colons), as docs/guides/export-and-chat.md describes. Without it, only the
installed version is tested.
"""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from configuration.vlm_spec import VlmSpec
from core.chat.tokens import IMAGE_MARK
from core.samples import Role, Turn
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.asking import AskingConfig
from evaluation.benchmarks.questions import VisualQuestion
from models.connector import ConnectorConfig
from models.language.adapters import TuningConfig
from models.language.language_model import LanguageModelConfig
from models.towers.vision_tower import TowerFeature, VisionTowerConfig
from pipeline.assemble import VlmParts, assemble
from serving.export_check import check_export
from serving.hugging_face_export import write_model
from serving.language_model_export import check_language_model, write_language_model
from tests.support.small_world import REPOSITORY, image

pytestmark = pytest.mark.slow
PYTHONS = [path for path in os.environ.get("TRANSFORMERS_PYTHONS", "").split(":") if path]
LANGUAGE_MODEL = REPOSITORY / "data/embedded/models/lm_general"
NUM_NEW, NUM_IMAGES = 8, 4
QUESTIONS = ("Zer da hau?", "What is this?", "Zein koloretakoa da?")
TEXTS = ("Zer da hau?", " Txakur bat", "Beth yw'r ddinas?", "a\n\nb  c", "<|user|>Kaixo<|eot_id|>")
CLIENT = """
import importlib.util, json, sys, warnings
import torch, transformers
from PIL import Image
from transformers import (
    AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline,
)

assert not any(importlib.util.find_spec(name) for name in ("models", "core", "serving"))
asked = json.load(open("asked.json"))
model, info = AutoModelForImageTextToText.from_pretrained("export", output_loading_info=True)
assert not any(info.values()), info
processor = AutoProcessor.from_pretrained("export")
tokenizer = AutoTokenizer.from_pretrained("export")
prompts, answers = [], []
for name, question in asked["items"]:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(
        images=Image.open(name), text=text, add_special_tokens=False, return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=asked["num_new"])
    prompts.append(inputs["input_ids"][0].tolist())
    answers.append(ids[0, inputs["input_ids"].shape[1]:].tolist())
language_model, info = AutoModelForCausalLM.from_pretrained("export_lm", output_loading_info=True)
assert not any(info.values()), info
text_tokenizer = AutoTokenizer.from_pretrained("export_lm")
chat = text_tokenizer.apply_chat_template(
    [{"role": "user", "content": asked["texts"][0]}], add_generation_prompt=True, tokenize=False
)
inputs = text_tokenizer(chat, add_special_tokens=False, return_tensors="pt")
reply = language_model.generate(**inputs, max_new_tokens=asked["num_new"])
json.dump({
    "version": transformers.__version__,
    "class": type(model).__name__,
    "prompts": prompts,
    "answers": answers,
    "texts": [tokenizer.encode(text, add_special_tokens=False) for text in asked["texts"]],
    "text_ids": [text_tokenizer.encode(text, add_special_tokens=False) for text in asked["texts"]],
    "chat": inputs["input_ids"][0].tolist(),
    "reply": reply[0, inputs["input_ids"].shape[1]:].tolist(),
}, open("found.json", "w"))
"""


def write_tower(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "projection_dim": 64}
    layers = {"num_hidden_layers": 3, "num_attention_heads": 4}
    config = CLIPVisionConfig(**sizes, **layers, image_size=64, patch_size=16)
    CLIPVisionModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    CLIPImageProcessor(**size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> VlmParts:
    """The shipped language model, whose tokenizer adds a prefix space, with a CLIP tower."""
    tower = write_tower(tmp_path_factory.mktemp("tower"))
    spec = VlmSpec(
        tower=VisionTowerConfig(
            library="transformers", path=str(tower), feature=TowerFeature.PENULTIMATE
        ),
        connector=ConnectorConfig(),
        language_model=LanguageModelConfig(path=str(LANGUAGE_MODEL)),
        template="embedded",
    )
    built = assemble(
        spec, features=None, tuning=TuningConfig(), trains_language_model=False,
        seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    built.model.eval()
    return built


@pytest.fixture(scope="module")
def exported(parts: VlmParts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Exports of the whole model and of its language model, with what this project computes."""
    folder = tmp_path_factory.mktemp("exports")
    asking = AskingConfig()
    for name in ("export", "export_lm"):
        (folder / name).mkdir()
    write_model(folder / "export", parts, asking, dtype=torch.float32, max_shard="5GB")
    check_export(folder / "export", parts)
    write_language_model(folder / "export_lm", parts, asking, dtype=torch.float32, max_shard="5GB")
    check_language_model(folder / "export_lm", parts)
    asked = []
    for i in range(NUM_IMAGES):
        # As large as the tower's input: versions of transformers resize with other backends.
        Image.open(io.BytesIO(image(i, size=64))).save(folder / f"{i}.png")
        asked += [(f"{i}.png", question) for question in QUESTIONS]
    content = {"items": asked, "num_new": NUM_NEW, "texts": TEXTS}
    (folder / "asked.json").write_text(json.dumps(content), encoding="utf-8")
    return folder, our_results(parts, folder, asked)


def our_results(parts: VlmParts, folder: Path, asked: list[tuple[str, str]]) -> dict[str, Any]:
    tokenizer, chat = parts.chat.tokenizer, parts.chat
    questions = [
        VisualQuestion(
            turns=(Turn(role=Role.USER, content=f"{IMAGE_MARK}\n{question}"),),
            image=(folder / name).read_bytes(),
            max_new_tokens=NUM_NEW,
        )
        for name, question in asked
    ]
    answerer = VlmAnswerer(parts.model, chat, parts.encode_image, batch_size=4)
    return {
        "prompts": [chat.encode_prompt(question.turns).tolist() for question in questions],
        "answers": [reply.text for reply in answerer.answer(questions)],
        "texts": [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS],
        "chat": chat.encode_prompt([Turn(role=Role.USER, content=TEXTS[0])]).tolist(),
    }


def ask_client(folder: Path, python: str) -> Any:
    (folder / "client.py").write_text(CLIENT, encoding="utf-8")
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, "-I", "client.py"], cwd=folder, env=variables, capture_output=True, text=True,
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("python", [sys.executable, *PYTHONS])
def test_every_version_gives_our_token_ids_and_answers(
    exported: tuple[Path, Any], parts: VlmParts, python: str
) -> None:
    folder, ours = exported
    found = ask_client(folder, python)
    assert found["class"] == "LlavaForConditionalGeneration"
    assert found["prompts"] == ours["prompts"]
    assert found["texts"] == found["text_ids"] == ours["texts"]
    assert found["chat"] == ours["chat"]
    tokenizer = parts.chat.tokenizer
    decoded = [tokenizer.decode(ids, skip_special_tokens=True) for ids in found["answers"]]
    assert [text.strip() for text in decoded] == ours["answers"]
    assert len(set(ours["answers"])) > 1, "equal by chance"
    assert found["reply"]


@pytest.mark.skipif(not PYTHONS, reason="TRANSFORMERS_PYTHONS names no older environment")
def test_an_older_version_is_among_them(exported: tuple[Path, Any]) -> None:
    versions = [ask_client(exported[0], python)["version"] for python in PYTHONS]
    assert any(version.startswith("4.") for version in versions), versions

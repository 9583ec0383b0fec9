"""An exported cell in plain transformers: same logits and answers, nothing missing."""

import hashlib
import io
import json
import re
import shutil
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlavaForConditionalGeneration,
)

from core.chat.tokens import IMAGE_MARK
from core.samples import Role, Turn
from evaluation import run as evaluation_run
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.benchmarks.predictions import read_predictions
from evaluation.benchmarks.questions import VisualQuestion
from experiments.cli import request_of
from experiments.export import build_parser, main
from experiments.run_steps.planning import make_plan
from models.export.processor import image_processor_config
from models.towers.image_transform import CropRule
from models.towers.vision_tower import VisionTowerConfig, load_vision_tower
from pipeline.assemble import VlmParts
from serving.cell import TrainedCell, find_cells, load_cell
from tests.integration.conftest import LOUD
from tests.support import small_world as worlds

pytestmark = pytest.mark.slow
NUM_ITEMS, NUM_NEW, SIZE = 100, 12, 32
NUM_ADAPTED_ITEMS = 24
QUESTIONS = ("What is this?", "Zer da hau?")
Items = list[tuple[str, bytes]]
"""Questions, each with its image."""
LOGIT_TOLERANCE = 1e-4


def arguments(target: Path, *more: str) -> list[str]:
    grid = ["--profile", worlds.PROFILE, "--exp", "mix_ablation"]
    return ["--run", worlds.CELL, "--to", "hf", str(target), *grid, *(more or LOUD)]


def trained(words: list[str]) -> VlmParts:
    return load_cell(find_cell(words), torch.device("cpu"))


def find_cell(words: list[str]) -> TrainedCell:
    request = request_of(build_parser().parse_args(words))
    (cell,) = find_cells(make_plan(request), [worlds.CELL], root=request.root)
    return cell


def load_stock(folder: Path) -> tuple[Any, Any]:
    model, info = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return model.eval(), processor


def sized_image(seed: int, *, is_even: bool) -> bytes:
    """Return images of many shapes, most of which must be resized and cropped.

    open_clip and transformers differ by a pixel in the centre of an odd margin.
    """
    rng = np.random.default_rng(seed)
    while True:
        sides = [int(side) for side in rng.integers(20, 90, size=2)]
        margin = int(max(sides) * SIZE / min(sides)) - SIZE
        if margin % 2 == 0 or not is_even:
            break
    image = Image.open(io.BytesIO(worlds.image(seed, size=64))).convert("RGB")
    buffer = io.BytesIO()
    image.resize((sides[0], sides[1]), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


def items(parts: VlmParts, number: int) -> Items:
    tower = parts.model.tower
    assert tower is not None
    is_even = tower.transform.crop is CropRule.ROUND
    return [(QUESTIONS[i % 2], sized_image(i // 2, is_even=is_even)) for i in range(number)]


def our_answers(parts: VlmParts, asked: Items) -> list[str]:
    """Return the answers of the evaluation, computed in batches."""
    answerer = VlmAnswerer(parts.model, parts.chat, parts.encode_image, batch_size=16)
    return [reply.text for reply in answerer.answer(our_questions(asked))]


def our_questions(asked: Items) -> list[VisualQuestion]:
    return [
        VisualQuestion(
            turns=(Turn(role=Role.USER, content=f"{IMAGE_MARK}\n{text}"),),
            image=image,
            max_new_tokens=NUM_NEW,
        )
        for text, image in asked
    ]


def our_prompts(parts: VlmParts, asked: Items) -> list[np.ndarray]:
    return [parts.chat.encode_prompt(question.turns) for question in our_questions(asked)]


def our_ids(parts: VlmParts, asked: Items) -> list[list[int]]:
    """Return the token ids of answers without an end token."""
    images = [torch.as_tensor(parts.encode_image(image)) for _, image in asked]
    return parts.model.generate(
        our_prompts(parts, asked), images, max_new_tokens=NUM_NEW, end_token_id=-1,
        pad_token_id=parts.chat.pad_token_id, batch_size=16,
    )  # fmt: skip


def their_ids(asked: Items, model: Any, processor: Any, *, is_endless: bool) -> list[list[int]]:
    """Return answers generated one at a time, as a user of transformers does."""
    if is_endless:
        model.generation_config.eos_token_id = None
    answers = []
    for question, image in asked:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = processor(
            images=Image.open(io.BytesIO(image)), text=text, add_special_tokens=False,
            return_tensors="pt",
        )  # fmt: skip
        ids = model.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False)
        answers.append(ids[0, inputs["input_ids"].shape[1] :].tolist())
    return answers


def assert_same_answers(
    parts: VlmParts,
    model: Any,
    processor: Any,
    *,
    num_items: int = NUM_ITEMS,
    num_distinct: int = 4,
) -> None:
    """Assert equal texts of answers, and equal tokens of answers without an end token."""
    asked = items(parts, num_items)
    ids = their_ids(asked, model, processor, is_endless=False)
    texts = [processor.decode(one, skip_special_tokens=True).strip() for one in ids]
    assert our_answers(parts, asked) == texts
    endless = our_ids(parts, asked)
    assert endless == their_ids(asked, model, processor, is_endless=True)
    assert len({tuple(one) for one in endless}) >= num_distinct, "equal by chance"


def largest_difference(parts: VlmParts, model: Any, processor: Any) -> float:
    """Return the largest difference of logits at any position of some prompts."""
    worst = 0.0
    for question, image in items(parts, 10):
        turn = Turn(role=Role.USER, content=f"{IMAGE_MARK}\n{question}")
        ids_BT = torch.from_numpy(parts.chat.encode_prompt([turn]))[None]
        pixels = processor.image_processor(
            images=Image.open(io.BytesIO(image)), return_tensors="pt"
        )["pixel_values"]
        tower = parts.model.tower
        assert tower is not None
        assert torch.equal(pixels[0], tower.normalise(tower.transform(image)))
        with torch.no_grad():
            embeds_BTD = parts.model.embed(ids_BT, tower(pixels))
            ours = parts.model.language_model(inputs_embeds=embeds_BTD).logits
            theirs = model(input_ids=ids_BT, pixel_values=pixels).logits
        worst = max(worst, float((ours - theirs).abs().max()))
    return worst


@pytest.fixture
def inside(trained_world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained_world)
    return trained_world


def test_stock_llava_gives_the_same_answers(inside: Path) -> None:
    target = inside / "out" / "plain"
    words = arguments(target)
    assert main(words) == 0
    parts = trained(words)
    model, processor = load_stock(target)
    assert largest_difference(parts, model, processor) <= LOGIT_TOLERANCE
    assert_same_answers(parts, model, processor)
    card = (target / "README.md").read_text()
    for word in ("library_name: transformers", "caption_eu", "CC0", "Scores", "tower"):
        assert word in card
    assert not any((inside / "out").glob(".*.part"))


def test_the_report_shows_retention_and_image_checks(inside: Path) -> None:
    before, after = (
        json.loads((worlds.stage_folder(inside / "mlruns", kind) / "result" / name).read_text())
        for kind, name in (("backbone", "retention.json"), ("retention", "retention.json"))
    )
    assert before.keys() == after.keys() == {"text:text_eu"}
    assert before["text:text_eu"]["value"] != after["text:text_eu"]["value"]
    folder = worlds.stage_folder(inside / "mlruns", "evaluate")
    checks = json.loads((folder / "result" / "canaries.json").read_text())
    assert checks["num_changed"] == 0
    assert {(group["kind"], group["language"]) for group in checks["groups"]} == {
        (kind, language) for kind in ("vqa", "mc", "capqa") for language in ("en", "eu")
    }
    assert {group["shuffled"]["num_images"] for group in checks["groups"]} == {4}
    page = next((inside / "mlruns" / "grids").rglob("report.html")).read_text()
    change = after["text:text_eu"]["value"] - before["text:text_eu"]["value"]
    assert f"{change:+.3f}" in page
    assert "before training" in page
    assert f"0 of {checks['num_alone']}" in page


def test_an_existing_folder_is_not_overwritten(inside: Path, capsys: pytest.CaptureFixture) -> None:
    target = inside / "taken"
    target.mkdir(exist_ok=True)
    assert main(arguments(target)) == 2
    assert "exists" in capsys.readouterr().err
    assert not list(target.iterdir())


def test_16_bit_weights_are_compared_after_rounding(inside: Path) -> None:
    target = inside / "out" / "half"
    shutil.rmtree(target, ignore_errors=True)
    assert main(arguments(target, *LOUD, "--dtype", "bfloat16")) == 0
    model, _ = load_stock(target)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def write_hf_tower(data: Path) -> Path:
    """Write the tower of the world in Hugging Face format."""
    tower = load_vision_tower(VisionTowerConfig(path=str(data / "tower")))
    model = CLIPVisionModel(CLIPVisionConfig(**tower.clip_vision_config()))
    weights = tower.clip_vision_weights()
    prefix = "vision_model." if hasattr(model, "vision_model") else ""
    model.load_state_dict({prefix + name: value for name, value in weights.items()})
    folder = data / "hf_tower"
    model.save_pretrained(folder)
    settings = image_processor_config(tower.transform)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_merged_adapters_mlp_connector_and_a_tower_of_transformers(inside: Path, kind: str) -> None:
    """A transformers tower crops images of every shape as its own processor does."""
    folder = write_hf_tower(inside / "data")
    more = ["--set", f"instruct.tuning.kind={kind}", "instruct.tuning.rank=16",
            "model.connector.kind=mlp2x_gelu", "model.tower.library=transformers",
            f"model.tower.path={folder.relative_to(inside)}", "align.num_steps=6",
            "instruct.optim.lr=0.02"]  # fmt: skip
    code, output = worlds.run(inside, worlds.grid_arguments(kind, *more))
    assert code == 0, output
    target = inside / "out" / kind
    words = arguments(target, *more, "--root", kind)
    assert main(words) == 0
    parts = trained(words)
    model, processor = load_stock(target)
    assert largest_difference(parts, model, processor) <= LOGIT_TOLERANCE
    assert_same_answers(  # they learn next to nothing
        parts, model, processor, num_items=NUM_ADAPTED_ITEMS, num_distinct=1
    )


def test_unfinished_and_unknown_cells_are_reported_with_a_fix(
    inside: Path, capsys: pytest.CaptureFixture
) -> None:
    words = arguments(inside / "never", "--set", "instruct.num_steps=7")
    assert main(words) == 2
    assert "experiments.run --only" in capsys.readouterr().err
    words[1] = "share41"
    assert main(words) == 2
    assert "unknown cell 'share41'" in capsys.readouterr().err


def test_an_export_gets_the_scores_of_its_cell(inside: Path) -> None:
    """transformers with the exported template and processor gets the same answers."""
    target, results = inside / "out" / "asked", inside / "results"
    assert main(arguments(target)) == 0
    words = ["--model", str(target), "--out", str(results)]  # asked as the export records
    words += ["--benchmark", "data/benchmark_test.manifest.json", "--batch-size", "5"]
    assert evaluation_run.main(words) == 0
    cell = find_cell(arguments(target))
    folder = cell.folder("evaluate").path  # the world also has cells of other tests
    columns = ["question_id", "language", "benchmark", "output", "blind_output", "score"]
    own = read_predictions(next(folder.rglob("predictions.parquet"))).select(columns)
    assert read_predictions(results / "predictions.parquet").select(columns) == own
    assert evaluation_run.main(words) == 2, "results are not overwritten"


def test_the_card_serves_a_hub(inside: Path) -> None:
    """Its header is that of the hub, and no path of this machine is in it."""
    target = inside / "out" / "carded"
    assert main(arguments(target)) == 0
    card = ModelCard.load(target / "README.md")
    data = card.data.to_dict()
    assert data["language"] == ["en", "eu"]
    assert (data["license"], data["library_name"]) == ("other", "transformers")
    assert "base_model" not in data, "a local language model is no model of the hub"
    names = {result.metric_name: result.metric_value for result in card.data.eval_results}
    folder = worlds.stage_folder(inside / "mlruns", "evaluate")
    scores = json.loads((folder / "result" / "metrics.json").read_text())["metrics"]
    assert names["vqa/eu/accuracy"] == pytest.approx(scores["vqa/eu/accuracy"]["value"], abs=0.01)
    weights = (inside / "data" / "lm" / "model.safetensors").read_bytes()
    assert f"lm (model.safetensors sha256 {hashlib.sha256(weights).hexdigest()})" in card.text
    assert "data/lm" not in card.text
    assert "data/benchmark_test" not in card.text.partition("```json")[0]
    code = card.text.split("```python\n")[1].split("```")[0]
    compile(code, "snippet", "exec")
    assert "AutoModelForImageTextToText.from_pretrained(name)" in code


def test_the_language_model_is_exported_alone(inside: Path) -> None:
    target = inside / "out" / "lm"
    words = arguments(target)
    words[words.index("hf")] = "hf-lm"
    assert main(words) == 0
    parts = trained(words)
    model, info = AutoModelForCausalLM.from_pretrained(target, output_loading_info=True)
    assert not any(info.values()), info
    ids = torch.tensor([parts.chat.encode_prompt([Turn(role=Role.USER, content="Zer da hau?")])])
    with torch.no_grad():
        theirs = model.eval()(ids).logits
        ours = parts.model.language_model(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=LOGIT_TOLERANCE)
    rendered = AutoTokenizer.from_pretrained(target).apply_chat_template(
        [{"role": "user", "content": "Zer da hau?"}], add_generation_prompt=True, tokenize=True,
        return_dict=True,
    )["input_ids"]  # fmt: skip
    assert rendered == ids[0].tolist()
    assert (target / "model.safetensors").stat().st_mode & 0o044, "readable by other users"


def test_a_dry_run_of_an_upload_sends_nothing(
    inside: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dry run uses the network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    target = inside / "out" / "pushed"
    assert main(arguments(target, *LOUD, "--push", "me/cell", "--dry-run")) == 0
    output = capsys.readouterr().err
    for name in ("model.safetensors", "README.md", "tokenizer.json"):
        assert re.search(rf"{(target / name).stat().st_size:,} bytes  {name}", output)
    assert "/me/cell (private if it is new)" in " ".join(output.split())
    assert main(arguments(inside / "out" / "x", *LOUD, "--dry-run")) == 2
    assert "concern --push" in capsys.readouterr().err


def test_what_gguf_needs_is_said(inside: Path, capsys: pytest.CaptureFixture) -> None:
    words = arguments(inside / "out" / "gguf")
    words[words.index("hf")] = "gguf"
    assert main(words) == 2
    assert "--to hf-lm and convert it with llama.cpp" in " ".join(capsys.readouterr().err.split())

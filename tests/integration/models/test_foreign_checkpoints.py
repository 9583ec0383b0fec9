"""Checkpoints of other authors are asked as transformers asks them, greedily, in any batch."""

import io
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from core.chat.tokens import IMAGE_MARK
from core.errors import CheckpointError, ConfigError
from core.io.images import decode_image
from core.samples import Role, Turn
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.run import main
from tests.support.models.foreign_checkpoints import VICUNA_TEMPLATE, write_llava

TEXTS = ("Zer da hau?", "Zenbat txakur daude argazkian?", "Non?", "Nolakoa da?", "Bai ala ez?")
NUM_TOKENS = 8


def question(number: int) -> VisualQuestion:
    pixels = np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    turn = Turn(role=Role.USER, content=f"{IMAGE_MARK}\n{TEXTS[number]}")
    return VisualQuestion(turns=(turn,), image=buffer.getvalue(), max_new_tokens=NUM_TOKENS)


QUESTIONS = [question(number) for number in range(len(TEXTS))]


def reference_replies(folder: Path, model: Any) -> list[str]:
    """Return the greedy replies of transformers, one question at a time."""
    processor = AutoProcessor.from_pretrained(folder)
    replies = []
    for asked in QUESTIONS:
        text = asked.turns[0].content.removeprefix(f"{IMAGE_MARK}\n")
        parts = [
            {"type": "image", "image": decode_image(asked.image)},
            {"type": "text", "text": text},
        ]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            ids_BT = model.generate(
                **inputs, max_new_tokens=NUM_TOKENS, do_sample=False, num_beams=1,
                repetition_penalty=1.0,
            )  # fmt: skip
        new_ids = ids_BT[0, inputs["input_ids"].shape[1] :]
        replies.append(processor.decode(new_ids, skip_special_tokens=True).strip())
    return replies


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"template": "{{ '<s>' }}" + VICUNA_TEMPLATE},
        {"has_bos": False},
        {"has_padding": False},
        {"generation": {"num_beams": 4, "repetition_penalty": 1.3}},
    ],
    ids=["tokenizer-adds-bos", "template-has-bos", "no-bos", "no-padding", "beams"],
)
def test_replies_equal_those_of_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    model = write_llava(tmp_path, **options)
    expected = reference_replies(tmp_path, model)
    assert len(set(expected)) > 1
    for batch_size in (1, 4):
        replies = HuggingFaceAnswerer(str(tmp_path), batch_size=batch_size).answer(QUESTIONS)
        assert [reply.text for reply in replies] == expected


def test_weights_that_are_not_finite_are_no_answers(tmp_path: Path) -> None:
    """Every reply was the token whose logit came first."""
    write_llava(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in sorted(weights) if "language_model" in name and "q_proj" in name)
    weights[name][0, 0] = math.nan
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"logits are not finite.*--dtype"):
        HuggingFaceAnswerer(str(tmp_path)).answer(QUESTIONS[:1])


def test_settings_that_do_not_fit_the_weights_are_one_error(tmp_path: Path) -> None:
    write_llava(tmp_path)
    edit_json(tmp_path / "config.json", lambda content: content.update(vision_feature_layer=99))
    with pytest.raises(CheckpointError, match=r"can't answer \(IndexError: .*config.json"):
        HuggingFaceAnswerer(str(tmp_path)).answer(QUESTIONS[:1])


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ raise_exception('a system turn is needed') }}{% endfor %}",
        "{% for m in messages %}{{ m",
        "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}",
    ],
)
def test_templates_that_can_not_render_an_image_are_reported(tmp_path: Path, template: str) -> None:
    write_llava(tmp_path, template=template)
    with pytest.raises(ConfigError, match="chat template of model"):
        HuggingFaceAnswerer(str(tmp_path))


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def remove_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def template_of_the_tokenizer_only(folder: Path) -> None:
    remove_template(folder)
    edit_json(
        folder / "tokenizer_config.json", lambda content: content.update(chat_template="{{ 'x' }}")
    )


def template_for_text_only(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for c in m['content'] %}"
        "{{ c['text'] if c['type'] == 'text' else '' }}{% endfor %}{% endfor %}"
    )


def other_image_token(folder: Path) -> None:
    edit_json(folder / "config.json", lambda content: content.update(image_token_index=77))


def remove_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_template, "no chat template, .*add chat_template.jinja"),
        (template_of_the_tokenizer_only, r"its tokenizer has one; copy it.*jinja"),
        (template_for_text_only, "chat template of model|no placeholder for the image"),
        (other_image_token, "no placeholder for the image: token 77"),
        (remove_processor, "processor|can't be loaded"),
    ],
)
def test_a_checkpoint_that_can_not_be_asked_names_the_file_to_fix(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    write_llava(tmp_path)
    damage(tmp_path)
    with pytest.raises((ConfigError, CheckpointError), match=message):
        HuggingFaceAnswerer(str(tmp_path))


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.9}, "do_sample=True, temperature=0.6"),
        ({"max_length": 3}, "max_length=3"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size=2"),
        ({"suppress_tokens": [5]}, r"suppress_tokens=[5]"),
        ({"num_beams": 4, "repetition_penalty": 1.3}, "num_beams=4, repetition_penalty=1.3"),
    ],
)
def test_generation_settings_are_overridden_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, Any], reported: str
) -> None:
    write_llava(tmp_path)
    expected = HuggingFaceAnswerer(str(tmp_path)).answer(QUESTIONS)
    path = tmp_path / "generation_config.json"
    edit_json(path, lambda content: content.update(settings))
    logging.getLogger("irudimen").propagate = True
    with caplog.at_level(logging.WARNING):
        replies = HuggingFaceAnswerer(str(tmp_path)).answer(QUESTIONS)
    assert reported in caplog.text
    assert replies == expected


def test_every_stop_token_of_the_checkpoint_ends_a_reply(tmp_path: Path) -> None:
    write_llava(tmp_path)
    (reply, *_) = HuggingFaceAnswerer(str(tmp_path)).answer(QUESTIONS)
    last = reply.text[3]
    tokenizer = AutoProcessor.from_pretrained(tmp_path).tokenizer
    (stop,) = tokenizer(last, add_special_tokens=False)["input_ids"][:1]
    path = tmp_path / "generation_config.json"
    edit_json(path, lambda content: content.update(eos_token_id=[1, stop]))
    (shorter, *_) = HuggingFaceAnswerer(str(tmp_path)).answer(QUESTIONS)
    assert shorter.text == reply.text.partition(last)[0].strip()
    assert not shorter.is_truncated


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch-size", "0"), "--batch-size 0, expected at least 1"),
        (("--max-new-tokens", "0"), "--max-new-tokens 0, expected at least 1"),
        (("--limit", "-3"), "--limit -3, expected at least 0"),
        (("--languages", "eu", "eu"), "--languages eu eu: name each language once"),
        (("--device", "gpu"), "--device gpu can't be used"),
        (("--out", "setup.cfg/x"), "setup.cfg: File exists; check the path"),
    ],
)
def test_options_are_checked_before_the_model_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    write_llava(tmp_path / "model")
    benchmark = "data/embedded/benchmark_test.manifest.json"
    arguments = ["--model", str(tmp_path / "model"), "--benchmark", benchmark, "--limit", "2"]
    assert main([*arguments, "--out", str(tmp_path / "out"), *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_answers_that_do_not_fit_and_truncated_replies_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_llava(tmp_path / "model")
    benchmark = "data/embedded/benchmark_test.manifest.json"
    arguments = ["--model", str(tmp_path / "model"), "--benchmark", benchmark, "--limit", "6"]
    logging.getLogger("irudimen").propagate = True
    with caplog.at_level(logging.WARNING):
        code = main([*arguments, "--max-new-tokens", "3", "--no-blind", "--out", f"{tmp_path}/out"])
    assert code == 0
    assert "questions have no accepted answer that fits into the limit" in caplog.text
    assert "Pass --max-new-tokens" in caplog.text
    assert "reached the token limit" in " ".join(capsys.readouterr().out.split())

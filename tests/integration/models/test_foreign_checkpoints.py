"""Checkpoints of other authors are asked as transformers asks them, greedily, in any batch."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from core.chat.tokens import IMAGE_MARK
from core.errors import ConfigError
from core.io.images import decode_image
from core.samples import Role, Turn
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.run import main
from tests.support.foreign_checkpoints import VICUNA_TEMPLATE, write_llava

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


def test_overruled_generation_settings_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_llava(tmp_path, generation={"num_beams": 4, "repetition_penalty": 1.3})
    logging.getLogger("irudimen").propagate = True
    with caplog.at_level(logging.WARNING):
        HuggingFaceAnswerer(str(tmp_path))
    assert "num_beams=4, repetition_penalty=1.3" in caplog.text


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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch-size", "0"), "--batch-size 0, expected at least 1"),
        (("--max-new-tokens", "0"), "--max-new-tokens 0, expected at least 1"),
        (("--limit", "-3"), "--limit -3, expected at least 0"),
        (("--device", "gpu"), "--device gpu can't be used"),
        (("--out", "setup.cfg/x"), "setup.cfg/x: Not a directory"),
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

"""Comparison of an export with its model: weight names, logits, prompts and pixels."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from core.chat.tokens import IMAGE_MARK
from core.errors import CheckpointError
from core.io.images import decode_image
from core.rng import named_rng
from core.samples import Role, Turn
from models.export.portable import check_portable
from models.language.generation import decoder_and_output_layer
from models.vlm import VisionLanguageModel
from pipeline.assemble import VlmParts

LOGIT_TOLERANCE = 1e-4
"""Maximum difference in fp32, relative to the largest logit if that exceeds 1."""
_PIXEL_TOLERANCE = 1e-5
_QUESTIONS = ("Zer da hau?", "What is this?", "Zenbat daude?\nErantzun laburra.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityReport:
    """Largest differences between an export and its model."""

    logits: float
    largest_logit: float
    pixels: float
    num_positions: int


@torch.no_grad()
def check_export(folder: Path, parts: VlmParts) -> ParityReport:
    """Load an export with transformers and compare it on a noise image and three conversations.

    Args:
        folder: Folder of the export.
        parts: The model, with the values that were written (rounded to the exported data type).

    Raises:
        CheckpointError: If a weight is missing or unexpected, the outputs differ, or transformers 4
            can't read the files of the tokenizer.
    """
    check_portable(folder)
    theirs, info = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    problems = {key: sorted(map(str, names)) for key, names in info.items() if names}
    if problems:
        raise CheckpointError(f"transformers can't load the export completely: {problems}")
    processor = AutoProcessor.from_pretrained(folder)
    # The PIL backend resizes exactly as CLIP and our training do. The default backend (where
    # torchvision is installed) may differ by one grey level.
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    image = _make_noise_image(parts.model)
    pixels_NCHW, pixel_error = _check_pixels(processor, image, parts.model)
    error, largest, num_positions = 0.0, 0.0, 0
    for turns in _conversations():
        ids = _check_prompt(processor, image, turns, parts)
        input_ids_BT = torch.from_numpy(ids)[None].to(parts.model.device)
        ours_TV = _our_logits(parts.model, input_ids_BT, pixels_NCHW)
        theirs_TV = theirs.eval()(
            input_ids=input_ids_BT.cpu(), pixel_values=pixels_NCHW, use_cache=False
        ).logits[0]
        error = max(error, float((ours_TV - theirs_TV).abs().max()))
        largest = max(largest, float(ours_TV.abs().max()))
        num_positions += len(ids)
    if not error <= LOGIT_TOLERANCE * max(1.0, largest):
        raise CheckpointError(
            f"logits of transformers differ by {error:.2e} (largest logit {largest:.1f}); the "
            f"tolerance is {LOGIT_TOLERANCE}"
        )
    return ParityReport(
        logits=error, largest_logit=largest, pixels=pixel_error, num_positions=num_positions
    )


def _conversations() -> list[list[Turn]]:
    """Return a single question, one after a system turn, and a follow-up after an answer."""
    system = Turn(role=Role.SYSTEM, content="Be brief.")
    questions = [
        Turn(role=Role.USER, content=text if number else f"{IMAGE_MARK}\n{text}")
        for number, text in enumerate(_QUESTIONS)
    ]
    answer = Turn(role=Role.ASSISTANT, content="bai")
    return [questions[:1], [system, questions[0]], [questions[0], answer, questions[2]]]


def _check_prompt(processor: Any, image: bytes, turns: list[Turn], parts: VlmParts) -> np.ndarray:
    expected = parts.chat.encode_prompt(turns)
    messages = [{"role": turn.role.value, "content": turn.content} for turn in turns]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    decoded = decode_image(image)
    encoded = processor(images=decoded, text=text, add_special_tokens=False, return_tensors="np")
    if not np.array_equal(encoded["input_ids"][0], expected):
        raise CheckpointError(
            f"the exported chat template renders {text!r}, which differs from training"
        )
    return expected


def _check_pixels(
    processor: Any, image: bytes, model: VisionLanguageModel
) -> tuple[torch.Tensor, float]:
    """Return the pixels (1, C, H, W) of an image and their largest difference."""
    if model.tower is None:
        raise ValueError("the model was built without its tower")
    ours_CHW = model.tower.normalise(model.tower.transform(image).to(model.device)).cpu()
    decoded = decode_image(image)
    theirs_NCHW = processor.image_processor(images=decoded, return_tensors="pt")["pixel_values"]
    error = float((theirs_NCHW[0] - ours_CHW).abs().max())
    if not error <= _PIXEL_TOLERANCE:
        raise CheckpointError(f"pixels of the exported image processor differ by {error:.2e}")
    return ours_CHW[None], error


def _make_noise_image(model: VisionLanguageModel) -> bytes:
    """Return a PNG of noise that must be resized and cropped."""
    if model.tower is None:
        raise ValueError("the model was built without its tower")
    size = model.tower.transform.size
    shape = (size + size // 3, size + size // 2, 3)
    noise = named_rng(0, "export", "probe").integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    return buffer.getvalue()


def _our_logits(
    model: VisionLanguageModel, input_ids_BT: torch.Tensor, pixels_NCHW: torch.Tensor
) -> torch.Tensor:
    if model.tower is None:
        raise ValueError("the model was built without its tower")
    embeds_BTD = model.embed(input_ids_BT, model.tower(pixels_NCHW.to(model.device)))
    decoder, output_layer = decoder_and_output_layer(model.language_model)
    hidden_BTD = decoder(inputs_embeds=embeds_BTD, use_cache=False).last_hidden_state
    logits_TV: torch.Tensor = output_layer(hidden_BTD)[0].float().cpu()
    return logits_TV

"""Export of a trained ready-made model for plain transformers, with a parity check."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from core.chat.format import PromptStyle
from core.chat.messages import to_messages
from core.chat.tokens import IMAGE_MARK
from core.errors import CheckpointError
from core.io.images import decode_image
from core.rng import named_rng
from core.samples import Role, Sample, SampleRef, Turn
from datamodules.batches.collate import ReadySample, collate_micro_batch
from models.freezing import cast_all
from pipeline.assemble_ready_made import ReadyMadeParts
from serving.export_check import LOGIT_TOLERANCE, ParityReport

_SIZES = ((64, 48), (90, 40), (33, 70))
"""Width and height of the images of the check."""
_QUESTIONS = ("Zer da hau?", "What is this?", "Zenbat daude?\nErantzun laburra.")


def write_ready_made(
    folder: Path, parts: ReadyMadeParts, *, dtype: torch.dtype, max_shard: str
) -> None:
    """Write the model with merged adapters, its generation settings and its processor.

    The weights of `parts` are rounded to `dtype` in place.

    Raises:
        CheckpointError: If the files can't be written.
    """
    stock: Any = parts.model.stock
    set_end_tokens(parts)
    cast_all(parts.model, dtype)
    try:
        stock.save_pretrained(folder, max_shard_size=max_shard)
    except SafetensorError as error:  # its only error for a full disk
        raise CheckpointError(f"{folder}: the weights can't be written ({error})") from error
    cast_all(parts.model, torch.float32)
    parts.chat.processor.save_pretrained(folder)


def set_end_tokens(parts: ReadyMadeParts) -> None:
    """Add the token with which the model was trained to end replies to its generation settings."""
    settings: Any = parts.model.stock.generation_config
    ends = (
        settings.eos_token_id
        if isinstance(settings.eos_token_id, list)
        else [settings.eos_token_id]
    )
    known = [end for end in ends if end is not None]
    settings.eos_token_id = list(dict.fromkeys([*known, parts.chat.end_token_id]))


def check_ready_made(folder: Path, parts: ReadyMadeParts) -> ParityReport:
    """Load an export with transformers and compare token ids and logits on three conversations.

    Args:
        folder: Folder of the export.
        parts: The model, with the values that were written.

    Raises:
        CheckpointError: If a weight is missing or unexpected, or ids or logits differ.
    """
    theirs, info = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, attn_implementation="sdpa"
    )
    problems = {key: sorted(map(str, names)) for key, names in info.items() if names}
    if problems:
        raise CheckpointError(f"transformers can't load the export completely: {problems}")
    return compare_logits(theirs, AutoProcessor.from_pretrained(folder), parts)


@torch.no_grad()
def compare_logits(theirs: Any, processor: Any, parts: ReadyMadeParts) -> ParityReport:
    """Compare token ids and logits of a model of transformers with those of training.

    Args:
        theirs: The model that transformers has loaded, in float32.
        processor: Its processor.
        parts: The trained model.

    Raises:
        CheckpointError: If they differ.
    """
    error, largest, num_positions = 0.0, 0.0, 0
    for size, question in zip(_SIZES, _QUESTIONS, strict=True):
        sample = _conversation(size, question)
        ours_TV = _our_logits(parts, sample)
        inputs = _their_inputs(processor, sample)
        theirs_TV = theirs.eval()(**inputs, use_cache=False).logits[0].float()
        if ours_TV.shape != theirs_TV.shape:
            raise CheckpointError(
                f"the exported processor makes {len(theirs_TV)} tokens of a conversation for which "
                f"training has {len(ours_TV)}"
            )
        error = max(error, float((ours_TV - theirs_TV).abs().max()))
        largest = max(largest, float(theirs_TV.abs().max()))
        num_positions += len(theirs_TV)
    if not error <= LOGIT_TOLERANCE * max(1.0, largest):
        raise CheckpointError(
            f"logits of transformers differ by {error:.2e} (largest logit {largest:.1f}); the "
            f"tolerance is {LOGIT_TOLERANCE}"
        )
    return ParityReport(
        logits=error, largest_logit=largest, pixels=0.0, num_positions=num_positions
    )


def _conversation(size: tuple[int, int], question: str) -> Sample:
    shape = (size[1], size[0], 3)
    noise = named_rng(0, "export", "probe").integers(0, 256, shape, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    turns = (
        Turn(role=Role.USER, content=f"{IMAGE_MARK}\n{question}"),
        Turn(role=Role.ASSISTANT, content="bai"),
    )
    names = {"key": "probe", "source": "export", "language": "", "parallel_id": "probe"}
    return Sample(**names, turns=turns, image=buffer.getvalue(), image_size=None)


def _our_logits(parts: ReadyMadeParts, sample: Sample) -> torch.Tensor:
    """Return the logits (T, V) of the forward pass of training."""
    if sample.image is None:
        raise ValueError("the probe has no image")
    encoded = parts.chat.encode(sample, PromptStyle.CHAT)
    ref = SampleRef(
        position=0,
        source=sample.source,
        language=sample.language,
        key=sample.key,
        num_tokens=encoded.num_tokens,
        num_loss_tokens=encoded.num_loss_tokens,
    )
    ready = ReadySample(ref=ref, encoded=encoded, image=parts.chat.encode_image(sample.image))
    micro_batch = collate_micro_batch(
        [[ready]],
        pad_token_id=parts.chat.pad_token_id,
        image_token_id=parts.chat.image_token_id,
        is_features=False,
        join_images=parts.join_images,
    )
    hidden_BTD = parts.model.eval().hidden_states(micro_batch.to(parts.model.device))
    logits_TV: torch.Tensor = parts.model.stock.get_output_embeddings()(hidden_BTD)[0]
    return logits_TV.float().cpu()


def _their_inputs(processor: Any, sample: Sample) -> Any:
    if sample.image is None:
        raise ValueError("the probe has no image")
    return processor.apply_chat_template(
        [to_messages(sample.turns, decode_image(sample.image))],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )

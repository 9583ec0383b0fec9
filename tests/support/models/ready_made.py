"""Conversations for ready-made models, and what their own classes make of them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from core.chat.format import PromptStyle
from core.chat.messages import to_messages
from core.chat.ready_made import ReadyMadeChat
from core.io.images import decode_image
from core.samples import EncodedSample, MicroBatch, Role, Sample, SampleRef, Turn
from datamodules.batches.collate import ReadySample, collate_micro_batch
from evaluation.benchmarks.questions import VisualQuestion
from models.ready_made.model import ReadyMadeVlm
from models.ready_made.model_class import model_classes
from tests.support.models.foreign_classes import BUILDERS

PACKED = sorted({*BUILDERS} & {*model_classes()})
"""Names of the supported classes."""
_SIZES = ((40, 32), (64, 30), (24, 72), (50, 50), None)
ANSWERS = ("txakur bat", "bi", "mahai gainean", "ez dakit", "ondo")


def encode_image(size: tuple[int, int]) -> bytes:
    """Return an image of noise of some width and height."""
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_sample(number: int, size: tuple[int, int] | None) -> Sample:
    """Return a conversation of two questions, with an image unless `size` is None."""
    mark = "" if size is None else "<image>\n"
    turns = (
        Turn(role=Role.USER, content=f"{mark}Zer da hau? {number}"),
        Turn(role=Role.ASSISTANT, content=ANSWERS[number]),
        Turn(role=Role.USER, content="Non?"),
        Turn(role=Role.ASSISTANT, content="hor"),
    )
    return Sample(
        key=f"k{number}", source="s", language="eu", parallel_id=f"k{number}", turns=turns,
        image=None if size is None else encode_image(size), image_size=size,
    )  # fmt: skip


SAMPLES = [make_sample(number, size) for number, size in enumerate(_SIZES)]


def collate(
    chat: ReadyMadeChat, model: ReadyMadeVlm, rows: Sequence[Sequence[Sample]]
) -> MicroBatch:
    """Return a micro-batch of packed rows, as training makes it."""
    ready = [[prepare(chat, sample) for sample in row] for row in rows]
    return collate_micro_batch(
        ready,
        pad_token_id=chat.pad_token_id,
        image_token_id=chat.image_token_id,
        is_features=False,
        join_images=model.rules.join_images,
    )


def prepare(chat: ReadyMadeChat, sample: Sample) -> ReadySample:
    """Encode a conversation and its image."""
    encoded = chat.encode(sample, PromptStyle.CHAT)
    ref = SampleRef(
        position=0, source=sample.source, language=sample.language, key=sample.key,
        num_tokens=encoded.num_tokens, num_loss_tokens=encoded.num_loss_tokens,
    )  # fmt: skip
    image = None if sample.image is None else chat.encode_image(sample.image)
    return ReadySample(ref=ref, encoded=encoded, image=image)


def reference_inputs(processor: Any, sample: Sample) -> Any:
    """Return what the class's own processor makes of a conversation."""
    image = None if sample.image is None else decode_image(sample.image)
    return processor.apply_chat_template(
        [to_messages(sample.turns, image)], tokenize=True, return_dict=True, return_tensors="pt"
    )


def reference_loss(folder: Path, chat: ReadyMadeChat) -> tuple[float, dict[str, torch.Tensor]]:
    """Return summed loss and gradients of the class's own forward pass, one sample at a time."""
    stock = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor, total = AutoProcessor.from_pretrained(folder), 0.0
    for sample in SAMPLES:
        inputs = reference_inputs(processor, sample)
        mask = torch.from_numpy(chat.encode(sample, PromptStyle.CHAT).loss_mask_T)
        labels = inputs["input_ids"].masked_fill(~mask[None], -100)
        output = stock(**inputs, labels=labels, use_cache=False)
        loss = output.loss * int((labels[:, 1:] != -100).sum())
        loss.backward()
        total += float(loss.detach())
    grads = {name: p.grad for name, p in stock.named_parameters() if p.grad is not None}
    return total, grads


def own_inputs(folder: Path, question: VisualQuestion, reply: str | None = None) -> Any:
    """Return what the processor of the class makes of a question, or of its prompt and reply."""
    processor = AutoProcessor.from_pretrained(folder)
    image = decode_image(question.image) if question.image else None
    messages = [to_messages(question.turns, image)]
    if reply is None:
        return processor.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_tensors="pt",
            add_generation_prompt=True,
        )  # fmt: skip
    text = processor.apply_chat_template(messages, add_generation_prompt=True)[0] + reply
    begin = processor.tokenizer.bos_token
    return processor(
        text=[text], images=None if image is None else [[image]], return_tensors="pt",
        add_special_tokens=begin is None or not text.startswith(begin),
    )  # fmt: skip


def training_logits(
    model: ReadyMadeVlm, chat: ReadyMadeChat, ids: list[int], question: VisualQuestion
) -> torch.Tensor:
    """Return the logits (V,) of the next token by the whole forward pass of training."""
    ids_T = np.asarray(ids)
    image = chat.encode_image(question.image) if question.image else None
    geometry = {} if image is None else chat.layout(decode_image(question.image).size).geometry
    rules = model.rules
    encoded = EncodedSample(
        input_ids_T=ids_T, loss_mask_T=np.arange(len(ids)) == len(ids) - 1,
        branch_ids_T=np.zeros_like(ids_T),
        rotary_positions_AT=(
            rules.rotary_positions(ids_T, geometry) if rules.has_rotary_axes else None
        ),
    )  # fmt: skip
    ref = SampleRef(position=0, source="s", language="eu", key="k", num_tokens=len(ids),
                    num_loss_tokens=1)  # fmt: skip
    batch = collate_micro_batch(
        [[ReadySample(ref=ref, encoded=encoded, image=image)]], pad_token_id=chat.pad_token_id,
        image_token_id=chat.image_token_id, is_features=False, join_images=rules.join_images,
    )  # fmt: skip
    hidden_TD = model.hidden_states(batch)[0]
    logits_V: torch.Tensor = model.stock.get_output_embeddings()(hidden_TD[len(ids) - 1])
    return logits_V

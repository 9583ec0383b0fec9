"""One packed forward and backward pass, and greedy decoding, compared with the class itself."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from core.samples import Role, Turn
from evaluation.benchmarks.questions import VisualQuestion
from models.freezing import FreezePolicy, apply_freeze
from models.ready_made.loading import ReadyMadeSource, load_chat, load_ready_made
from tests.support.models.ready_made import (
    SAMPLES,
    collate,
    encode_image,
    own_inputs,
    reference_loss,
    training_logits,
)

_NUM_NEW = 8
_TIE = 1e-4
"""Logits that are closer than this may change places by rounding."""
_SIZES = ((40, 32), (64, 30), (24, 72), (50, 50), (33, 90))


def measure_forward(folder: Path) -> dict[str, Any]:
    """Compare a checkpoint behind the interface of training with its own class.

    Args:
        folder: Checkpoint in Hugging Face format.

    Returns:
        `loss`: relative difference of the summed loss over packed conversations; `gradients`:
        largest difference of any gradient, relative to the largest gradient; `ids`, `num_ids`:
        generated ids that whole forward passes of training give, too, and how many there are.
    """
    source = ReadyMadeSource(path=str(folder))
    chat, model = load_chat(source), load_ready_made(source)
    expected, grads = reference_loss(folder, chat)
    apply_freeze(model, FreezePolicy(tower=True, connector=True, language_model=True))
    packed = collate(chat, model.eval(), [SAMPLES[:2], SAMPLES[2:]])
    loss = model(packed).loss_sum
    loss.backward()
    found = {name.removeprefix("stock."): p.grad for name, p in model.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in grads.values())
    differences = [float((_known(found[n]) - grad).abs().max()) for n, grad in grads.items()]
    equal, total = _count_equal_ids(folder)
    return {
        "class": type(model.stock).__name__,
        "documents": len(SAMPLES),
        "loss": abs(float(loss.detach()) - expected) / abs(expected),
        "gradients": max(differences) / largest,
        "ids": equal,
        "num_ids": total,
    }


def _known(grad: torch.Tensor | None) -> torch.Tensor:
    if grad is None:
        raise ValueError("a parameter with a gradient in the class itself has none here")
    return grad


@torch.no_grad()
def _count_equal_ids(folder: Path) -> tuple[int, int]:
    """Return how many ids of `generate` have the largest logit in whole passes, and all ids."""
    source = ReadyMadeSource(path=str(folder))
    chat, model = load_chat(source), load_ready_made(source).eval()
    stock: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
    turn = Turn(role=Role.USER, content="<image>\nZer da hau?")
    equal = total = 0
    for size in _SIZES:
        question = VisualQuestion(turns=(turn,), image=encode_image(size))
        inputs = own_inputs(folder, question)
        ids = inputs["input_ids"][0].tolist()
        generated = stock.generate(
            **inputs,
            max_new_tokens=_NUM_NEW,
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=-1,
        )[0, len(ids) :].tolist()
        for token in generated:
            logits_V = training_logits(model, chat, ids, question)
            equal += bool(logits_V[token] >= logits_V.max() - _TIE)
            total += 1
            ids.append(token)
    return equal, total

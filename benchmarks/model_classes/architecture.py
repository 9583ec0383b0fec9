"""Packed rows and greedy decoding of an architecture, compared with parts of transformers."""

import itertools
from typing import Any

import numpy as np
import torch

from tests.support.models.architectures import (
    NUM_LAYERS,
    PAD,
    build_reference,
    collate,
    loss_and_gradients,
    make_samples,
)
from tests.support.models.tiny_vlm import IMAGE, build_model

ARCHITECTURES = {
    "linear": "",
    "mlp2x_gelu": "",
    "resampler": "{num_queries: 3, num_heads: 4}",
    "cross_attention": "{every_n_blocks: 1}",
    "single_stream": "{image_size: 32, patch_size: 16}",
}
"""Architecture -> its options in the tiny study."""
REFERENCES = {
    "linear": "`nn.Linear`, `LlamaForCausalLM`",
    "mlp2x_gelu": "`LlavaMultiModalProjector`, `LlamaForCausalLM`",
    "resampler": "`IdeficsPerceiverResampler`, `LlamaForCausalLM`",
    "cross_attention": "`MllamaForCausalLM`",
    "single_stream": "`FuyuForCausalLM`",
}
"""Architecture -> the reference that has its weights."""
_NUM_DOCUMENTS, _NUM_NEW = 9, 5
_TIE = 1e-4
"""Logits that are closer than this may change places by rounding."""


def measure_architecture(kind: str) -> dict[str, Any]:
    """Compare an architecture with a model of the same weights, built from transformers.

    Returns:
        `loss`: relative difference of the summed loss over packed documents; `gradients`: largest
        difference of any gradient, relative to the largest gradient; `ids`, `num_ids`: ids that
        are generated with a cache and have the largest logit of the reference, and all of them,
        up to the first placeholder of an image in a reply.
    """
    model = build_model(kind=kind, num_layers=NUM_LAYERS)
    reference = build_reference(kind, model)
    samples = make_samples(kind, _NUM_DOCUMENTS, is_image_first=True)
    found = loss_and_gradients(model, [collate([samples[:4], samples[4:]])])
    expected = reference.loss_and_gradients(model, samples)
    if found.keys() != expected.keys():
        raise ValueError(f"{kind}: gradients of {sorted(found.keys() ^ expected.keys())} differ")
    loss, other = float(found.pop("loss")), float(expected.pop("loss"))
    largest = max(float(grad.abs().max()) for grad in expected.values())
    differences = [float((found[name] - grad).abs().max()) for name, grad in expected.items()]
    prompts = [sample.encoded.input_ids_T for sample in samples]
    images = [sample.image for sample in samples]
    replies = model.generate(
        prompts, images, max_new_tokens=_NUM_NEW, end_token_id=-1, pad_token_id=PAD, batch_size=4
    )
    equal = total = 0
    with torch.no_grad():
        for ids_T, image, reply in zip(prompts, images, replies, strict=True):
            reply_K = np.array(
                [*itertools.takewhile(lambda token: token != IMAGE, reply)], np.int64
            )
            logits_TV = reference.logits(np.append(ids_T, reply_K), image)[len(ids_T) - 1 : -1]
            chosen_T = logits_TV.gather(1, torch.from_numpy(reply_K)[:, None])[:, 0]
            equal += int((chosen_T >= logits_TV.amax(dim=1) - _TIE).sum())
            total += len(reply_K)
    return {
        "reference": REFERENCES[kind],
        "documents": len(samples),
        "loss": abs(loss - other) / abs(other),
        "gradients": max(differences) / largest,
        "ids": equal,
        "num_ids": total,
    }

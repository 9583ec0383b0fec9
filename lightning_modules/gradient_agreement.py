"""Agreement of the gradients of two languages: the cosine between them, as a diagnostic.

A cosine near 1 means that a step for one language also improves the other; near 0, that the two
change different directions; below 0, that they work against each other (Yu et al., 2020, Gradient
Surgery for Multi-Task Learning, arXiv 2001.06782, call such gradients conflicting).
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn

from core.process.distributed import all_reduce_sum
from core.samples import MicroBatch
from models.any_vlm import AnyVlm

PREFIX = "gradient_cosine"
"""Prefix of the metrics."""

_Gradients = dict[str, torch.Tensor]
"""Name of a parameter -> gradient over all ranks."""


def gradient_agreement(
    model: AnyVlm,
    micro_batches: Sequence[MicroBatch],
    languages: Sequence[str],
) -> dict[str, float]:
    """Return the cosine between the gradients of each pair of languages in one step.

    The gradient of a language is that of the loss summed over its loss tokens on all ranks, before
    clipping and without the state of the optimizer. Nothing that the training reads is changed:
    neither stored gradients nor random numbers. Every rank must call this. It costs a forward and a
    backward pass per language over the micro-batches that have the language, and 4 bytes of memory
    per trained parameter and language.

    Args:
        model: Replicated model, whose parameters are whole on every rank.
        micro_batches: This rank's part of the step.
        languages: Languages of the stage; the same on all ranks.

    Returns:
        Metric -> cosine in [-1, 1], of all trained parameters and of each part of the model; only
        languages with a gradient have one.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found: dict[str, _Gradients] = {}
    for language in languages:
        found[language] = _gradients(model, trained, micro_batches, language)
    cosines: dict[str, float] = {}
    for first, second in itertools.combinations(sorted(found), 2):
        pair = f"{PREFIX}/{first}-{second}"
        for part, names in _parts(trained).items():
            cosine = _cosine(found[first], found[second], names)
            if cosine is not None:
                cosines[f"{pair}/{part}" if part else pair] = cosine
    return cosines


def _gradients(
    model: AnyVlm,
    trained: Mapping[str, nn.Parameter],
    micro_batches: Sequence[MicroBatch],
    language: str,
) -> _Gradients:
    """Return the gradients of the summed loss of one language over all ranks."""
    totals = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in trained.items()}
    chosen = [_only_language(micro_batch, language) for micro_batch in micro_batches]
    with _random_state_kept(model.device):
        for micro_batch in chosen:
            if not micro_batch.loss_positions_K.numel():
                continue
            loss_sum = model(micro_batch).loss_sum
            # Not backward(), which would add to stored gradients and start DDP's reduction.
            parts = torch.autograd.grad(loss_sum, list(trained.values()), allow_unused=True)
            for name, part in zip(trained, parts, strict=True):
                if part is not None:
                    totals[name] += part
    return {name: all_reduce_sum(total) for name, total in totals.items()}


def _only_language(micro_batch: MicroBatch, language: str) -> MicroBatch:
    """Return a micro-batch whose loss counts the tokens of one language."""
    languages = {ref.source: ref.language for ref in micro_batch.samples}
    chosen = [languages[source] == language for source in micro_batch.sources]
    is_chosen_S = torch.tensor(chosen, dtype=torch.bool, device=micro_batch.loss_sources_K.device)
    is_chosen_K = is_chosen_S.index_select(0, micro_batch.loss_sources_K)
    return dataclasses.replace(
        micro_batch,
        loss_positions_K=micro_batch.loss_positions_K[is_chosen_K],
        loss_sources_K=micro_batch.loss_sources_K[is_chosen_K],
    )


@contextlib.contextmanager
def _random_state_kept(device: torch.device) -> Iterator[None]:
    """Leave the random numbers of the training as they are."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def _parts(trained: Mapping[str, nn.Parameter]) -> dict[str, list[str]]:
    """Return the names of parameters, all under the empty name and of each part of the model."""
    parts: dict[str, list[str]] = {"": list(trained)}
    for name in trained:
        parts.setdefault(name.partition(".")[0], []).append(name)
    return parts


def _cosine(first: _Gradients, second: _Gradients, names: Sequence[str]) -> float | None:
    """Return the cosine over some parameters; None if a gradient is zero there."""
    products = [
        torch.stack([torch.dot(a, b), torch.dot(a, a), torch.dot(b, b)])
        for a, b in ((first[n].flatten().double(), second[n].flatten().double()) for n in names)
    ]
    product, norm_first, norm_second = torch.stack(products).sum(dim=0).tolist()
    if norm_first <= 0.0 or norm_second <= 0.0:
        return None
    return float(product / (norm_first * norm_second) ** 0.5)

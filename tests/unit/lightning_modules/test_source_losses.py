"""Losses by source and language: exact over micro-batches, kept over a resume, bit-identical."""

from typing import Any

import numpy as np
import pytest
import torch

from configuration.run_config import INSTRUCT_POLICY
from core.samples import EncodedSample, MicroBatch, SampleRef
from datamodules.batches.collate import ReadySample, collate_micro_batch
from lightning_modules.optim import OptimConfig
from lightning_modules.source_losses import SourceLosses
from lightning_modules.vlm_module import VlmModule
from models.vlm import VisionLanguageModel
from tests.support.models.tiny_vlm import IMAGE, VOCABULARY, build_model

LANGUAGES = {"caption_en": "en", "caption_eu": "eu", "chat_eu": "eu", "unseen_en": "en"}
SAMPLES = ("caption_eu", "caption_en", "chat_eu", "caption_eu", "caption_en")


def ready(position: int, source: str) -> ReadySample:
    num_tokens = 6 + 3 * position
    rng = np.random.default_rng(position)
    encoded = EncodedSample(
        input_ids_T=rng.integers(10, VOCABULARY, num_tokens),
        loss_mask_T=np.arange(num_tokens) >= 2 + position % 2,
        branch_ids_T=np.zeros(num_tokens, dtype=np.int64),
    )
    ref = SampleRef(
        position=position,
        source=source,
        language=LANGUAGES[source],
        key="k",
        num_tokens=num_tokens,
        num_loss_tokens=encoded.num_loss_tokens,
    )
    return ReadySample(ref=ref, encoded=encoded, image=None)


def pack(rows: list[list[ReadySample]]) -> MicroBatch:
    return collate_micro_batch(rows, pad_token_id=0, image_token_id=IMAGE, is_features=True)


def samples() -> list[ReadySample]:
    return [ready(position, source) for position, source in enumerate(SAMPLES)]


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return build_model(num_layers=1)


def measure(model: VisionLanguageModel, losses: SourceLosses, *batches: MicroBatch) -> None:
    """Run one step."""
    for batch in batches:
        losses.add(batch, model(batch).token_losses_K)
    losses.end_step(losses.count_tokens(batches))


def started() -> SourceLosses:
    losses = SourceLosses()
    losses.begin(LANGUAGES, torch.device("cpu"))
    return losses


def alone(model: VisionLanguageModel, chosen: list[ReadySample]) -> float:
    """Return the mean loss of samples that are not packed with others."""
    found = [model(pack([[sample]])) for sample in chosen]
    num_loss_tokens = sum(loss.num_loss_tokens for loss in found)
    return float(sum(loss.loss_sum.detach() for loss in found)) / num_loss_tokens


def test_every_loss_is_that_of_its_samples_alone(model: VisionLanguageModel) -> None:
    losses, all_samples = started(), samples()
    measure(model, losses, pack([all_samples[:2], all_samples[2:4]]), pack([all_samples[4:]]))
    found = losses.take()
    by_name = {
        **{f"loss_by_source/{s}": (s,) for s in ("caption_en", "caption_eu", "chat_eu")},
        "loss_by_language/en": ("caption_en",),
        "loss_by_language/eu": ("caption_eu", "chat_eu"),
    }
    assert found.keys() == by_name.keys()  # nothing is logged about a source without tokens
    for name, sources in by_name.items():
        expected = alone(model, [s for s in all_samples if s.ref.source in sources])
        assert found[name] == pytest.approx(expected, rel=1e-5), name
    assert losses.take() == {}


def test_weighted_losses_add_up_to_the_training_loss(model: VisionLanguageModel) -> None:
    losses, batch = started(), pack([samples()])
    total = model(batch)
    measure(model, losses, batch)
    counts = dict(zip(sorted(LANGUAGES), losses.count_tokens([batch]), strict=True))
    found = losses.take()
    mean = sum(counts[s] * found[f"loss_by_source/{s}"] for s in set(SAMPLES)) / sum(
        counts.values()
    )
    assert mean == pytest.approx(float(total.loss_sum.detach()) / total.num_loss_tokens, rel=1e-6)


def test_a_resumed_window_is_the_same_bit_for_bit(model: VisionLanguageModel) -> None:
    steps = [pack([[sample]]) for sample in samples()]
    whole, first, second = started(), started(), SourceLosses()
    for step in steps:
        measure(model, whole, step)
    for step in steps[:3]:
        measure(model, first, step)
    second.restore(first.state())
    second.begin(LANGUAGES, torch.device("cpu"))
    for step in steps[3:]:
        measure(model, second, step)
    assert second.take() == whole.take()


def test_checkpoints_carry_the_window(model: VisionLanguageModel) -> None:
    optim = OptimConfig(lr=1e-3)
    first, second = (
        VlmModule(model, policy=INSTRUCT_POLICY, optim=optim, num_steps=1) for _ in range(2)
    )
    first.source_losses.begin(LANGUAGES, torch.device("cpu"))
    measure(model, first.source_losses, pack([samples()]))
    checkpoint: dict[str, Any] = {"state_dict": dict(first.named_parameters())}
    first.on_save_checkpoint(checkpoint)
    second.on_load_checkpoint(checkpoint)
    second.source_losses.begin(LANGUAGES, torch.device("cpu"))
    assert second.source_losses.state() == first.source_losses.state()
    assert second.source_losses.take()


def test_chunks_of_the_loss_have_the_same_losses(model: VisionLanguageModel) -> None:
    batch = pack([samples()])
    whole = model(batch)
    model.loss_chunk = 7
    try:
        chunked = model(batch)
    finally:
        model.loss_chunk = 0
    torch.testing.assert_close(chunked.token_losses_K, whole.token_losses_K)
    assert not whole.token_losses_K.requires_grad
    assert float(whole.token_losses_K.sum()) == pytest.approx(
        float(whole.loss_sum.detach()), rel=1e-6
    )


def test_nothing_is_measured_before_it_begins(model: VisionLanguageModel) -> None:
    losses = SourceLosses()
    measure(model, losses, pack([samples()]))
    assert losses.take() == {}
    assert losses.state() == {}

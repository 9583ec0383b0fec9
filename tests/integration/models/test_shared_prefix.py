"""Questions that share the tokens of an image equal the same questions asked separately.

The model computes the image once per conversation and every question as if it stood alone: the
loss and every gradient must be those of the single questions.
"""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.chat.format import PromptStyle
from core.samples import Role, Sample, SampleRef, Turn
from datamodules.batches.collate import PADDED_ROWS, ReadySample, RowLayout, collate_micro_batch
from datamodules.batches.encode import encode_sample
from models.connector import ConnectorConfig, build_connector
from models.vlm import VisionLanguageModel
from tests.support.doubles import NUM_IMAGE_TOKENS, make_chat

WIDTH = 12
CHAT = make_chat()
CONVERSATIONS = (
    (("Zer da hau?", "sagar gorria"), ("Zenbat?", "bat"), ("Animalia al da?", "ez")),
    (("What is this?", "dog"),),
    (("Ikusten al da: txakurra?", "bai"), ("Zer dago ezkerrean?", "eguzkia")),
)


def build_model() -> VisionLanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=3,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(CHAT.tokenizer),
        initializer_range=0.2,
    )
    connector = build_connector(ConnectorConfig(), vision_width=WIDTH, model_width=32, seed=0)
    return VisionLanguageModel(
        None, connector, LlamaForCausalLM(config).eval(), image_token_id=CHAT.image_token_id
    )


def ready(pairs: tuple[tuple[str, str], ...], image: int, style: PromptStyle) -> ReadySample:
    turns = []
    for number, (question, answer) in enumerate(pairs):
        mark = "" if number else "<image>\n"
        turns.append(Turn(role=Role.USER, content=mark + question))
        turns.append(Turn(role=Role.ASSISTANT, content=answer))
    sample = Sample(
        key="k", source="s", language="eu", parallel_id="k", turns=tuple(turns), image=b"x"
    )
    encoded = encode_sample(sample, CHAT, style)
    ref = SampleRef(
        position=0,
        source="s",
        language="eu",
        key="k",
        num_tokens=encoded.num_tokens,
        num_loss_tokens=encoded.num_loss_tokens,
    )
    features = np.random.default_rng(image).normal(size=(NUM_IMAGE_TOKENS, WIDTH))
    return ReadySample(ref=ref, encoded=encoded, image=torch.from_numpy(features).float())


def loss_and_gradients(
    rows: list[list[ReadySample]],
    layout: RowLayout = PADDED_ROWS,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    """Of the mean over targets; the last number is how many tokens went through the model."""
    model = build_model()
    batch = collate_micro_batch(
        rows,
        pad_token_id=CHAT.pad_token_id,
        image_token_id=CHAT.image_token_id,
        is_features=True,
        layout=layout,
    )
    loss = model(batch)
    mean = loss.loss_sum / loss.num_loss_tokens
    mean.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return mean.detach(), gradients, sum(ref.num_tokens for ref in batch.samples)


def test_shared_prefix_equals_single_questions() -> None:
    shared = [ready(pairs, i, PromptStyle.SHARED_PREFIX) for i, pairs in enumerate(CONVERSATIONS)]
    alone = [
        ready((pair,), i, PromptStyle.CHAT)
        for i, pairs in enumerate(CONVERSATIONS)
        for pair in pairs
    ]
    expected, expected_gradients, num_alone = loss_and_gradients([[sample] for sample in alone])
    loss, gradients, num_shared = loss_and_gradients([shared[:2], shared[2:]])
    assert abs(loss / expected - 1) <= 1e-6  # measured: 1e-7
    assert gradients.keys() == expected_gradients.keys()
    for name, value in expected_gradients.items():
        error = (gradients[name] - value).norm() / value.norm()
        assert error <= 1e-5, (name, float(error))  # measured: at most 1e-6
    # Saved: the start token, the user token and the image of every further question.
    num_shared_away = len(alone) - len(shared)
    assert num_alone - num_shared == num_shared_away * (2 + NUM_IMAGE_TOKENS)


@pytest.mark.parametrize("style", [PromptStyle.SHARED_PREFIX, PromptStyle.CHAT])
def test_rows_laid_end_to_end_give_the_same_gradients(style: PromptStyle) -> None:
    """The arrangement for GPUs: one row without padding between documents."""
    samples = [ready(pairs, i, style) for i, pairs in enumerate(CONVERSATIONS)]
    rows = [samples[:1], samples[1:]]
    expected, expected_gradients, _ = loss_and_gradients(rows)
    layout = RowLayout(is_end_to_end=True, multiple=128)
    loss, gradients, _ = loss_and_gradients(rows, layout)
    assert abs(loss / expected - 1) <= 1e-6
    for name, value in expected_gradients.items():
        assert (gradients[name] - value).norm() <= 1e-5 * value.norm(), name


def test_a_conversation_is_not_the_same_as_single_questions() -> None:
    """Otherwise the test above could not fail."""
    whole = [ready(pairs, i, PromptStyle.CHAT) for i, pairs in enumerate(CONVERSATIONS)]
    shared = [ready(pairs, i, PromptStyle.SHARED_PREFIX) for i, pairs in enumerate(CONVERSATIONS)]
    difference = loss_and_gradients([whole])[0] - loss_and_gradients([shared])[0]
    assert difference.abs() > 1e-3

"""Vision-language model: packing, freezing, text-only batches, generation."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from core.chat.tokens import IGNORE_INDEX
from core.errors import ConfigError, DataError
from core.samples import MicroBatch
from models.connector import ConnectorConfig, build_connector
from models.freezing import FreezePolicy, apply_freeze, cast_all, cast_frozen
from models.language.attention import document_mask
from models.language.language_model import (
    LanguageModelConfig,
    load_language_model,
    save_language_model,
)
from models.language.shared_prompts import make_prompt
from models.vlm import VisionLanguageModel

IMAGE, PAD, END = 5, 0, 7
NUM_IMAGE_TOKENS, WIDTH = 3, 16


def build_model(*, seed: int = 0, tied: bool = True) -> VisionLanguageModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=61,
        tie_word_embeddings=tied,
        initializer_range=0.3,  # large enough that answers depend on prompt and image
    )
    language_model = LlamaForCausalLM(config).eval()
    connector = build_connector(ConnectorConfig(), vision_width=WIDTH, model_width=32, seed=seed)
    return VisionLanguageModel(None, connector, language_model, image_token_id=IMAGE)


def row(ids: list[int], *, labels: list[int] | None = None) -> MicroBatch:
    input_ids_BT = torch.tensor([ids])
    return MicroBatch.of_rows(
        input_ids_BT=input_ids_BT,
        labels_BT=torch.full_like(input_ids_BT, IGNORE_INDEX)
        if labels is None
        else torch.tensor([labels]),
        position_ids_BT=torch.arange(len(ids))[None],
        document_ids_BT=torch.ones_like(input_ids_BT),
        branch_ids_BT=torch.zeros_like(input_ids_BT),
        image_token_id=IMAGE,
    )


def prompts_and_images(count: int) -> tuple[list[np.ndarray], list[torch.Tensor | None]]:
    rng = np.random.default_rng(0)
    prompts, images = [], []
    for index in range(count):
        prompt = rng.integers(10, 61, int(rng.integers(2, 20)))
        with_image = index % 3 > 0
        placeholders = [IMAGE] * NUM_IMAGE_TOKENS if with_image else []
        prompts.append(np.concatenate([prompt[:1], placeholders, prompt[1:]]).astype(np.int64))
        features = torch.from_numpy(rng.normal(size=(NUM_IMAGE_TOKENS, WIDTH)))
        images.append(features.float() if with_image else None)
    return prompts, images


# --- masks ---


def test_document_mask_is_causal_inside_documents_and_never_empty() -> None:
    documents = torch.tensor([[1, 1, 2, 2, 0, 0]])
    mask = document_mask(documents, torch.zeros_like(documents), has_branches=False)[0, 0]
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],
            [0, 0, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 0],
            [0, 0, 0, 0, 1, 1],
        ]
    ).bool()
    assert torch.equal(mask, expected)


def test_document_mask_keeps_branches_apart() -> None:
    documents, branches = torch.tensor([[1, 1, 1, 1, 2]]), torch.tensor([[0, 1, 1, 2, 0]])
    mask = document_mask(documents, branches, has_branches=True)[0, 0]
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 0, 0, 1, 0],
            [0, 0, 0, 0, 1],
        ]
    ).bool()
    assert torch.equal(mask, expected)


# --- forward ---


def test_text_only_batches_give_every_parameter_a_gradient() -> None:
    model = build_model()
    labels = [IGNORE_INDEX, 11, 12, IGNORE_INDEX]
    loss = model(row([10, 11, 12, 13], labels=labels))
    loss.loss_sum.backward()
    assert loss.num_loss_tokens == 2
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert all(p.grad.abs().sum() == 0 for p in model.connector.parameters() if p.grad is not None)


def test_an_empty_micro_batch_gives_zero_gradients() -> None:
    model = build_model()
    model(row([PAD])).loss_sum.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() == 0, name


def test_placeholders_without_images_are_rejected() -> None:
    with pytest.raises(DataError, match="3 placeholders in the tokens, 0 images"):
        build_model()(row([10, IMAGE, IMAGE, IMAGE, 11]))


def test_pixels_without_a_tower_are_rejected() -> None:
    import dataclasses

    batch = dataclasses.replace(row([10, IMAGE]), pixels_NCHW=torch.zeros(2, 3, 4, 4))
    with pytest.raises(ConfigError, match="2 images are pixels"):
        build_model()(batch)


def test_mismatched_parts_are_rejected() -> None:
    model = build_model()
    with pytest.raises(ConfigError, match="image token 61 is outside the vocabulary of 61"):
        VisionLanguageModel(None, model.connector, model.language_model, image_token_id=61)
    model.language_model.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="final_logit_softcapping=30"):
        VisionLanguageModel(None, model.connector, model.language_model, image_token_id=5)


# --- freezing ---


@pytest.mark.parametrize(
    ("policy", "parts"),
    [
        (FreezePolicy(connector=True, language_model=False), {"connector"}),
        (FreezePolicy(connector=True, language_model=True), {"connector", "language_model"}),
        (FreezePolicy(connector=False, language_model=True), {"language_model"}),
    ],
)
def test_gradients_reach_exactly_the_trainable_parts(policy: FreezePolicy, parts: set[str]) -> None:
    import dataclasses

    model = build_model()
    report = apply_freeze(model, policy)
    batch = row([10, IMAGE, IMAGE, IMAGE, 11], labels=[IGNORE_INDEX] * 4 + [11])
    batch = dataclasses.replace(batch, features_NPE=torch.randn(1, NUM_IMAGE_TOKENS, WIDTH))
    model(batch).loss_sum.backward()
    expected = {name for name, _ in model.named_parameters() if name.split(".")[0] in parts}
    assert {name for name, p in model.named_parameters() if p.grad is not None} == expected
    numbers = {line.part: line.trainable for line in report.lines}
    assert {part for part, number in numbers.items() if number} == parts
    assert report.num_trainable + report.num_frozen == sum(p.numel() for p in model.parameters())
    assert f"{report.num_trainable:,}" in report.table()


def test_policies_without_effect_are_rejected() -> None:
    with pytest.raises(ConfigError, match="can't be trained"):
        apply_freeze(build_model(), FreezePolicy(tower=True))
    with pytest.raises(ConfigError, match="trains nothing"):
        FreezePolicy(connector=False, language_model=False)


# --- generation ---


@pytest.mark.slow
def test_predictions_do_not_depend_on_the_batch_size() -> None:
    model = build_model()
    prompts, images = prompts_and_images(70)
    settings = {"max_new_tokens": 8, "pad_token_id": PAD}
    free = model.generate(prompts, images, end_token_id=END, batch_size=70, **settings)
    # This token occurs in the answers, so that some rows end early.
    end = Counter(answer[3] for answer in free).most_common(1)[0][0]
    answers = {
        size: model.generate(prompts, images, end_token_id=end, batch_size=size, **settings)
        for size in (1, 7, 64)
    }
    assert answers[1] == answers[7] == answers[64]
    assert len({tuple(answer) for answer in answers[1]}) > 30
    assert len({len(answer) for answer in answers[1]}) > 1


def test_generation_equals_hugging_face_greedy_search() -> None:
    model = build_model()
    prompts, images = prompts_and_images(12)
    ours = model.generate(
        prompts, images, max_new_tokens=8, end_token_id=END, pad_token_id=PAD, batch_size=12
    )
    for prompt, image, answer in zip(prompts, images, ours, strict=True):
        with torch.no_grad():
            features = None if image is None else image[None]
            embeds = model.embed(torch.from_numpy(prompt)[None], features)
            theirs = model.language_model.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
                max_new_tokens=8,
                do_sample=False,
                eos_token_id=END,
                pad_token_id=PAD,
            )[0].tolist()
        assert answer == [token for token in theirs if token != END]


def test_guided_answers_are_the_allowed_ones_that_greedy_search_reaches() -> None:
    model = build_model()
    prompts, images = prompts_and_images(12)
    options = [[20, 21, 22], [20, 21], [33], [34, 20]]
    allowed = [options if at % 2 else [] for at in range(12)]
    settings = {"max_new_tokens": 8, "end_token_id": END, "pad_token_id": PAD}
    free = model.generate(prompts, images, batch_size=12, **settings)
    for size in (1, 5, 12):
        guided = model.generate(prompts, images, batch_size=size, allowed=allowed, **settings)
        assert guided[::2] == free[::2]
        assert guided[1::2] == [
            choose_greedily(model, prompts[at], images[at], options) for at in range(1, 12, 2)
        ]
    assert len({tuple(answer) for answer in guided[1::2]}) > 1


def choose_greedily(
    model: VisionLanguageModel,
    prompt: np.ndarray,
    image: torch.Tensor | None,
    options: list[list[int]],
) -> list[int]:
    """Keep the options with the likeliest next token until one is left, without a cache."""
    left, length = [[*option, END] for option in options], 0
    while len(left) > 1:
        ids = torch.from_numpy(np.concatenate([prompt, left[0][:length]]).astype(np.int64))[None]
        embeds = model.embed(ids, None if image is None else image[None])
        logits = model.language_model(inputs_embeds=embeds).logits[0, -1]
        best = max({option[length] for option in left}, key=lambda token: logits[token].item())
        left = [option for option in left if option[length] == best]
        length += 1
    return left[0][:-1]


def several_questions_each(before: int) -> tuple[list[np.ndarray], list[torch.Tensor | None]]:
    """Build 60 prompts: 5 images after texts of three lengths, images at the end, text only."""
    rng = np.random.default_rng(1)
    images = [torch.from_numpy(rng.normal(size=(NUM_IMAGE_TOKENS, WIDTH))).float() for _ in "12345"]
    texts = [rng.integers(10, 61, before + more) for more in range(3)]
    prompts: list[np.ndarray] = []
    chosen: list[torch.Tensor | None] = []
    for index in range(60):
        tail = rng.integers(10, 61, int(rng.integers(1, 20)))
        image = np.full(NUM_IMAGE_TOKENS, IMAGE)
        parts = {0: [tail], 1: [texts[0][:2], image]}.get(
            index % 6, [texts[index % 3], image, tail]
        )
        prompts.append(np.concatenate(parts).astype(np.int64))
        chosen.append(images[index % 5] if index % 6 else None)
    return prompts, chosen


@pytest.mark.slow
@pytest.mark.parametrize(("before", "is_shared"), [(30, True), (1, False)])
def test_shared_heads_keep_the_answers_and_are_computed_once(
    before: int, *, is_shared: bool
) -> None:
    model = build_model()
    prompts, images = several_questions_each(before)
    read: list[int] = []

    def count(_module: object, _args: object, inputs: dict[str, torch.Tensor]) -> None:
        if "inputs_embeds" in inputs:
            read.append(inputs["inputs_embeds"].shape[:2].numel())

    decoder = model.language_model.get_decoder()
    decoder.register_forward_pre_hook(count, with_kwargs=True)
    answers, positions = {}, {}
    for size in (1, 7, 60):
        read.clear()
        answers[size] = model.generate(
            prompts, images, max_new_tokens=6, end_token_id=END, pad_token_id=PAD, batch_size=size
        )
        positions[size] = sum(read)
    assert answers[1] == answers[7] == answers[60]
    assert len({tuple(answer) for answer in answers[1]}) > 20
    assert positions[1] == sum(len(prompt) for prompt in prompts)  # one alone has nothing to share
    heads = {(index % 3, index % 5) for index in range(60) if index % 6 > 1} | {None}
    own = [len(prompt) - make_prompt(prompt, None, IMAGE).head_length for prompt in prompts]
    shared = len(heads) * (before + 2 + NUM_IMAGE_TOKENS) + 60 * max(own)
    assert positions[60] == (shared if is_shared else 60 * max(map(len, prompts)))


def test_generation_depends_on_the_image() -> None:
    model = build_model()
    prompts, images = prompts_and_images(30)
    other = [None if image is None else -image for image in images]
    settings = {"max_new_tokens": 4, "end_token_id": END, "pad_token_id": PAD, "batch_size": 30}
    seen, changed = (model.generate(prompts, x, **settings) for x in (images, other))
    same = [a == b for a, b in zip(seen, changed, strict=True)]
    assert all(same[0::3])
    assert not all(same)


def test_generation_rejects_unpaired_prompts_and_accepts_none() -> None:
    model = build_model()
    settings = {"max_new_tokens": 2, "end_token_id": END, "pad_token_id": PAD, "batch_size": 4}
    assert model.generate([], [], **settings) == []
    with pytest.raises(DataError, match="1 prompts but 0 images"):
        model.generate([np.array([10])], [], **settings)


# --- files ---


@pytest.mark.parametrize("tied", [True, False])
def test_language_model_round_trip(tmp_path: Path, tied: bool) -> None:
    model = build_model(tied=tied).language_model
    (tmp_path / "lm").mkdir()
    (tmp_path / "lm" / "tokenizer.json").write_text("{}")
    save_language_model(tmp_path / "lm", model, dtype=torch.float32)
    loaded = load_language_model(LanguageModelConfig(path=str(tmp_path / "lm")))
    for (name, ours), theirs in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    save_language_model(tmp_path / "lm", model)
    halved = load_language_model(LanguageModelConfig(path=str(tmp_path / "lm")))
    assert halved.dtype is torch.float32
    assert torch.equal(halved.lm_head.weight, model.lm_head.weight.half().float())
    assert (tmp_path / "lm" / "tokenizer.json").is_file()
    assert not list(tmp_path.glob(".*"))


def test_language_models_with_missing_weights_are_rejected(tmp_path: Path) -> None:
    import safetensors.torch

    from core.errors import CheckpointError

    with pytest.raises(CheckpointError, match="no language model at"):
        load_language_model(LanguageModelConfig(path=str(tmp_path / "nowhere")))
    save_language_model(tmp_path / "lm", build_model().language_model)
    path = tmp_path / "lm" / "model.safetensors"
    state = safetensors.torch.load_file(path)
    del state["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights.*model\.layers\.1\.mlp\.up_proj"):
        load_language_model(LanguageModelConfig(path=str(tmp_path / "lm")))


def test_casting_shrinks_frozen_weights_and_keeps_buffers() -> None:
    model = build_model()
    apply_freeze(model, FreezePolicy(connector=True, language_model=False))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    cast_frozen(model, torch.bfloat16)
    assert {p.dtype for p in model.connector.parameters()} == {torch.float32}
    assert {p.dtype for p in model.language_model.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(dict(model.named_buffers()), buffers, rtol=0, atol=0)


def test_a_bfloat16_model_generates_answers() -> None:
    model = build_model()
    cast_all(model, torch.bfloat16)
    prompts, images = prompts_and_images(5)
    answers = model.generate(
        prompts, images, max_new_tokens=4, end_token_id=END, pad_token_id=PAD, batch_size=2
    )
    assert len(answers) == 5
    assert all(0 < len(answer) <= 4 for answer in answers)

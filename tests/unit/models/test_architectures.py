"""Architectures: parity with reference implementations, packing, generation, freezing."""

import itertools

import numpy as np
import pytest
import torch
from transformers import FuyuConfig, FuyuForCausalLM, FuyuImageProcessor

from benchmarks.model_classes.architecture import ARCHITECTURES, measure_architecture
from core.errors import ConfigError, DataError
from core.samples import EncodedSample, MicroBatch, SampleRef
from datamodules.batches.collate import ReadySample, collate_micro_batch
from models.connector import (
    ConnectorConfig,
    build_connector,
)
from models.freezing import FreezePolicy, apply_freeze
from models.language.adapters import TuningConfig, TuningKind, add_adapters, merge_adapters
from models.language.blocks import checkpoint_activations
from models.sharding import gather_tensor, shard_model, sharding_policy
from models.towers.vision_tower import VisionTowerConfig, load_vision_tower
from models.vlm import VisionLanguageModel
from tests.support.models.architectures import (
    KINDS,
    PAD,
    collate,
    loss_and_gradients,
    make_samples,
)
from tests.support.models.tiny_vlm import (
    IMAGE,
    OPTIONS,
    build_model,
    one_rank,
)

END = 7


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6 * scale, msg=name)


# --- configuration ---


def test_unknown_names_and_options_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"model.connector.kind 'resampeler'. Did you mean 'res"):
        ConnectorConfig(kind="resampeler")
    with pytest.raises(ConfigError, match=r"options.resampler 'queries'"):
        ConnectorConfig(options={"resampler": {"queries": 3}})
    with pytest.raises(ConfigError, match=r"resampler.num_queries must be at least 1, got 0"):
        ConnectorConfig(options={"resampler": {"num_queries": 0}})
    with pytest.raises(ConfigError, match=r"num_heads=8 does not divide .* 12"):
        build_connector(ConnectorConfig(kind="resampler"), vision_width=12, model_width=8, seed=0)
    with pytest.raises(ConfigError, match="every_n_blocks=2, but the language model has 1 blocks"):
        build_model(kind="cross_attention", num_layers=1)


def test_only_options_of_the_chosen_architecture_are_part_of_the_address() -> None:
    assert ConnectorConfig(options=OPTIONS).resolved() == ConnectorConfig()
    resolved = ConnectorConfig(kind="resampler", options={"resampler": {"num_queries": 9}})
    assert resolved.resolved().options == {
        "resampler": {"num_queries": 9, "num_layers": 2, "num_heads": 8}
    }
    assert hash(resolved) != hash(resolved.resolved())


# --- parity with reference implementations ---


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_packed_rows_equal_classes_of_transformers(kind: str) -> None:
    """Loss, gradients and cached greedy decoding, with the same weights."""
    found = measure_architecture(kind)
    assert found["loss"] <= 1e-6
    assert found["gradients"] <= 1e-5
    assert found["ids"] == found["num_ids"] > 20


def test_single_stream_equals_fuyu() -> None:
    """Logits, loss, gradients and generated ids of transformers' Fuyu with the same weights."""
    tower = load_vision_tower(VisionTowerConfig(library="patches", name="16/8"))
    small = build_model()
    config, lm = small.language_model.config, small.language_model
    connector = build_connector(
        ConnectorConfig(kind="single_stream"), vision_width=tower.width, model_width=32, seed=0
    )
    ours = VisionLanguageModel(tower, connector, lm, image_token_id=IMAGE)
    fuyu = FuyuForCausalLM(
        FuyuConfig(
            text_config=config.to_dict(),
            patch_size=8,
            image_token_id=IMAGE,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )
    ).eval()
    renamed = {
        name.replace("model.", "model.language_model.", 1): value
        for name, value in lm.state_dict().items()
    }
    renamed |= {
        name.replace("proj", "model.vision_embed_tokens"): value
        for name, value in connector.state_dict().items()
    }
    fuyu.load_state_dict(renamed, strict=True)
    rng = np.random.default_rng(0)
    pixels_CHW = torch.from_numpy(rng.integers(0, 256, (3, 16, 16), dtype=np.uint8))
    normalised_NCHW = tower.normalise(pixels_CHW[None])
    # The patches of Fuyu's own image processor.
    patches_NPE = FuyuImageProcessor(patch_size={"height": 8, "width": 8}).patchify_image(
        normalised_NCHW
    )
    torch.testing.assert_close(tower(pixels_CHW[None]), patches_NPE)
    prompt_T = np.array([11, *[IMAGE] * tower.num_image_tokens, 12, 13, 14])
    batch = _row(prompt_T, pixels_CHW, num_loss_tokens=2)
    ids_BT = torch.from_numpy(prompt_T)[None]
    loss = ours(batch).loss_sum
    loss.backward()
    labels_BT = torch.where(torch.arange(len(prompt_T)) >= len(prompt_T) - 2, ids_BT, -100)
    theirs = fuyu(input_ids=ids_BT, pixel_values=patches_NPE, labels=labels_BT)
    (2 * theirs.loss).backward()
    torch.testing.assert_close(ours.logits(batch), theirs.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, 2 * theirs.loss, rtol=1e-6, atol=0)
    for mine, other in (
        (connector.proj.weight, fuyu.model.vision_embed_tokens.weight),
        (lm.model.norm.weight, fuyu.model.language_model.norm.weight),
        (lm.model.embed_tokens.weight, fuyu.model.language_model.embed_tokens.weight),
    ):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-5)
    (found,) = ours.generate(
        [prompt_T], [pixels_CHW], max_new_tokens=5, end_token_id=-1, pad_token_id=PAD, batch_size=1
    )
    ids_1T = fuyu.generate(
        input_ids=ids_BT, pixel_values=patches_NPE, max_new_tokens=5, do_sample=False,
        eos_token_id=None, pad_token_id=PAD,
    )  # fmt: skip
    assert found == ids_1T[0, len(prompt_T) :].tolist()


# --- packing ---


@pytest.mark.parametrize("is_end_to_end", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_equal_single_samples(kind: str, is_end_to_end: bool) -> None:
    model, samples = build_model(kind=kind, num_layers=4).double(), make_samples(kind)
    packed = collate([samples[:3], samples[3:]], is_end_to_end=is_end_to_end)
    single = [collate([[sample]]) for sample in samples]
    assert_close(loss_and_gradients(model, [packed]), loss_and_gradients(model, single))


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_blocks_give_the_same_gradients(kind: str) -> None:
    model, batch = build_model(kind=kind, num_layers=4).double(), collate([make_samples(kind)])
    expected = loss_and_gradients(model, [batch])
    checkpoint_activations(model.language_model, every=1)
    assert_close(loss_and_gradients(model, [batch]), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_depends_on_the_image(kind: str) -> None:
    model, samples = build_model(kind=kind), make_samples(kind)[:1]
    loss = model(collate([samples])).loss_sum
    other = [ReadySample(ref=s.ref, encoded=s.encoded, image=-s.image) for s in samples]  # type: ignore[operator]
    assert abs(model(collate([other])).loss_sum - loss) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_text_only_rows_give_every_parameter_a_gradient_of_zero(kind: str) -> None:
    model = build_model(kind=kind)
    model(collate([[make_samples(kind)[2]]])).loss_sum.backward()
    for name, parameter in model.connector.named_parameters():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name


# --- generation ---


@pytest.mark.parametrize("kind", KINDS)
def test_cached_generation_equals_whole_forward_passes(kind: str) -> None:
    model, samples = build_model(kind=kind, num_layers=4), make_samples(kind, 9)
    prompts = [sample.encoded.input_ids_T for sample in samples]
    images = [sample.image for sample in samples]
    # Several questions about one image share its head.
    prompts += [np.append(prompts[0], [20 + n]) for n in range(6)]
    images += [images[0]] * 6
    found = model.generate(
        prompts, images, max_new_tokens=5, end_token_id=END, pad_token_id=PAD, batch_size=4
    )
    for prompt, image, answer in zip(prompts, images, found, strict=True):
        ids = prompt.copy()
        for token in itertools.takewhile(lambda token: token != IMAGE, [*answer, END][:5]):
            logits_V = _logits(model, ids, image)[-1]
            assert logits_V[token] >= logits_V.max() - 1e-5
            ids = np.append(ids, token)
    assert len({tuple(answer) for answer in found}) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_likelihoods_equal_those_of_whole_forward_passes(kind: str) -> None:
    model, samples = build_model(kind=kind), make_samples(kind, 5)
    conversations = [(sample.encoded.input_ids_T, 2) for sample in samples]
    images = [sample.image for sample in samples]
    found = model.log_likelihoods(conversations, images, pad_token_id=PAD, batch_size=3)
    for (ids, _), image, likelihood in zip(conversations, images, found, strict=True):
        logs_TV = _logits(model, ids, image).log_softmax(dim=-1)
        expected = sum(float(logs_TV[at - 1, ids[at]]) for at in (-2, -1))
        assert likelihood == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def _logits(
    model: VisionLanguageModel, ids: np.ndarray, image: torch.Tensor | None
) -> torch.Tensor:
    return model.logits(_row(ids, image))[0]


def _row(ids: np.ndarray, image: torch.Tensor | None, *, num_loss_tokens: int = 0) -> MicroBatch:
    """Return a row of one sample, with features or pixels."""
    encoded = EncodedSample(
        input_ids_T=ids,
        loss_mask_T=np.arange(len(ids)) >= len(ids) - num_loss_tokens,
        branch_ids_T=np.zeros(len(ids), dtype=np.int64),
    )
    ref = SampleRef(
        position=0, source="s", language="eu", key="k", num_tokens=len(ids),
        num_loss_tokens=num_loss_tokens,
    )  # fmt: skip
    return collate_micro_batch(
        [[ReadySample(ref=ref, encoded=encoded, image=image)]], pad_token_id=PAD,
        image_token_id=IMAGE, is_features=image is None or image.is_floating_point(),
    )  # fmt: skip


# --- cross-attention ---


def test_closed_gates_and_missing_images_leave_the_language_model_as_it_is() -> None:
    model, samples = build_model(kind="cross_attention"), make_samples("cross_attention")
    with torch.no_grad():
        reference = build_model(kind="cross_attention")
        for name, parameter in reference.connector.named_parameters():
            if name.endswith("_gate"):
                parameter.zero_()
    text, image = collate([[samples[2]]]), collate([[samples[1]]])
    assert torch.equal(model.logits(text), reference.logits(text))
    assert not torch.allclose(model.logits(image), reference.logits(image), atol=1e-3)
    plain = reference.language_model(image.input_ids_BT, use_cache=False).logits
    num_tokens = image.num_tokens  # the rest is padding
    torch.testing.assert_close(reference.logits(image)[:, :num_tokens], plain[:, :num_tokens])


def test_cross_attention_rejects_misaligned_images() -> None:
    model, (sample, other, *_) = build_model(kind="cross_attention"), make_samples("linear")
    with pytest.raises(DataError, match="8 placeholders in the tokens, 2 images"):
        model(collate([[sample, other]]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_parameters_are_the_part_connector(kind: str) -> None:
    model = build_model(kind=kind)
    report = apply_freeze(model, FreezePolicy(connector=True, language_model=False))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {f"connector.{name}" for name, _ in model.connector.named_parameters()}
    assert report.num_trainable == sum(p.numel() for p in model.connector.parameters())


# --- sharding and adapters ---


@pytest.mark.slow
@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_sharded_models_have_the_same_gradients(kind: str, learns: bool) -> None:
    policy, samples = FreezePolicy(language_model=learns), make_samples(kind)
    batches = [collate([samples]), collate([[samples[2]]])]  # the second one has no image
    single = build_model(kind=kind, num_layers=4)
    apply_freeze(single, policy)
    expected = loss_and_gradients(single, batches)
    with one_rank() as mesh:
        model = build_model(kind=kind, num_layers=4)
        apply_freeze(model, policy)
        shard_model(model, mesh, sharding_policy("32-true"))
        found = {
            name: gather_tensor(value) for name, value in loss_and_gradients(model, batches).items()
        }
    assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_are_trained_and_merged(kind: str) -> None:
    model, samples = build_model(kind=kind), make_samples(kind)
    tuning = TuningConfig(kind=TuningKind.LORA, rank=2, alpha=4.0, dropout=0.0)
    add_adapters(model.language_model, tuning, seed=0)
    apply_freeze(model.double(), FreezePolicy(language_model=True))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trainable} == {"connector", "language_model"}
    assert all("lora_" in name for name in trainable if name.startswith("language_model"))
    with torch.no_grad():
        for name, parameter in model.language_model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    packed, single = collate([samples]), [collate([[sample]]) for sample in samples]
    assert_close(loss_and_gradients(model, [packed]), loss_and_gradients(model, single))
    before = model.logits(packed)
    merge_adapters(model.language_model)
    torch.testing.assert_close(model.logits(packed), before, rtol=1e-5, atol=1e-5)

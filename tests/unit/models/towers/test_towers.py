"""Towers of transformers and timm: equal features, and rejected options."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionConfig, CLIPVisionModel

from core.errors import CheckpointError, ConfigError
from models.towers.image_transform import ResizeMode
from models.towers.vision_tower import (
    TowerFeature,
    VisionTowerConfig,
    count_image_tokens,
    load_vision_tower,
)

VIT = {"image_size": 16, "patch_size": 4, "width": 32, "head_width": 16, "layers": 3}
TEXT = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
IMAGES = {
    "crop_size": {"height": 16, "width": 16},
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 16},
}
HF, TIMM = "transformers", "timm"
POOLED = TowerFeature.POOLED_GRID
TIMM_NAME = "test_vit"
NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def write_hf(folder: Path, *, activation: str = "quick_gelu", **images: Any) -> CLIPVisionModel:
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=128, num_hidden_layers=3, num_attention_heads=2,
        image_size=16, patch_size=4, hidden_act=activation, projection_dim=12,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    for parameter in model.parameters():  # biases start at zero, which would hide a swap
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({**IMAGES, **images}))
    return model


def hf_config(folder: Path) -> VisionTowerConfig:
    return VisionTowerConfig(library=HF, path=str(folder))


def visual_state(hf: CLIPVisionModel) -> dict[str, torch.Tensor]:
    """Return the weights of a CLIPVisionModel under open_clip's names."""
    theirs = {k.removeprefix("vision_model."): v for k, v in hf.state_dict().items()}
    ours = {
        "class_embedding": theirs["embeddings.class_embedding"],
        "conv1.weight": theirs["embeddings.patch_embedding.weight"],
        "positional_embedding": theirs["embeddings.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        ours[f"ln_pre.{kind}"] = theirs[f"pre_layrnorm.{kind}"]
        ours[f"ln_post.{kind}"] = theirs[f"post_layernorm.{kind}"]
        for layer in range(3):
            source, target = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
            parts = [theirs[f"{source}.self_attn.{x}_proj.{kind}"] for x in "qkv"]
            ours[f"{target}.attn.in_proj_{kind}"] = torch.cat(parts)
            for mine, other in NAMES.items():
                ours[f"{target}.{mine}.{kind}"] = theirs[f"{source}.{other}.{kind}"]
    return ours


def hf_state(visual: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return open_clip weights under the names of checkpoints on the hub."""
    prefix = "vision_model."
    theirs = {
        f"{prefix}embeddings.class_embedding": visual["class_embedding"],
        f"{prefix}embeddings.patch_embedding.weight": visual["conv1.weight"],
        f"{prefix}embeddings.position_embedding.weight": visual["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        theirs[f"{prefix}pre_layrnorm.{kind}"] = visual[f"ln_pre.{kind}"]
        theirs[f"{prefix}post_layernorm.{kind}"] = visual[f"ln_post.{kind}"]
        for layer in range(3):
            target = f"{prefix}encoder.layers.{layer}"
            source = f"transformer.resblocks.{layer}"
            for x, part in zip(
                "qkv", visual[f"{source}.attn.in_proj_{kind}"].chunk(3), strict=True
            ):
                theirs[f"{target}.self_attn.{x}_proj.{kind}"] = part.clone()
            for mine, other in NAMES.items():
                theirs[f"{target}.{other}.{kind}"] = visual[f"{source}.{mine}.{kind}"]
    return theirs


def write_open_clip(folder: Path, *, quick: bool, visual: dict[str, torch.Tensor] | None) -> None:
    torch.manual_seed(1)
    clip = open_clip.CLIP(12, vision_cfg=VIT, text_cfg=TEXT, quick_gelu=quick)
    if visual is not None:
        clip.visual.load_state_dict(visual | {"proj": clip.visual.proj}, strict=True)
    folder.mkdir()
    model = {"embed_dim": 12, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": quick}
    images = {"mean": IMAGES["image_mean"], "std": IMAGES["image_std"]}
    config = {"model_cfg": model, "preprocess_cfg": images}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: value.detach().contiguous() for name, value in clip.state_dict().items()}
    safetensors.torch.save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_hugging_face_weights_give_the_features_of_open_clip(
    tmp_path: Path, activation: str
) -> None:
    hf = write_hf(tmp_path / "hf", activation=activation)
    quick = activation == "quick_gelu"
    write_open_clip(tmp_path / "oc", quick=quick, visual=visual_state(hf))
    write_open_clip(tmp_path / "other", quick=not quick, visual=visual_state(hf))
    towers = [
        load_vision_tower(hf_config(tmp_path / "hf")),
        load_vision_tower(VisionTowerConfig(path=str(tmp_path / "oc"))),
        load_vision_tower(VisionTowerConfig(path=str(tmp_path / "other"))),
    ]
    pixels_NCHW = torch.randn(3, 3, 16, 16)
    first, second, wrong = (tower(pixels_NCHW) for tower in towers)
    assert first.shape == (3, towers[0].num_image_tokens, towers[0].width) == (3, 16, 32)
    scale = float(second.abs().max())
    assert float((first - second).abs().max()) < 1e-5 * scale
    assert float((first - wrong).abs().max()) > 1e-3 * scale
    own, theirs = towers[0].transform, towers[1].transform
    # They differ in the rounding of odd margins.
    assert own.crop is not theirs.crop
    assert dataclasses.replace(own, crop=theirs.crop) == theirs
    expected = hf(pixel_values=pixels_NCHW, output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.equal(first, expected)
    assert not first.requires_grad
    assert not any(p.requires_grad for p in towers[0].parameters())


def test_the_block_after_the_features_does_not_run(tmp_path: Path) -> None:
    write_hf(tmp_path)
    tower = load_vision_tower(hf_config(tmp_path))
    num_calls = 0

    def count(*_: object) -> None:
        nonlocal num_calls
        num_calls += 1

    for name, module in tower.visual.named_modules():
        if name.rpartition(".")[0].endswith("encoder.layers"):
            module.register_forward_hook(count)
    tower(torch.randn(1, 3, 16, 16))
    assert num_calls == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_and_evaluation_see_the_same_features(tmp_path: Path, dtype: torch.dtype) -> None:
    """A training in mixed precision calls the tower under autocast, an evaluation does not."""
    write_hf(tmp_path)
    tower = load_vision_tower(hf_config(tmp_path)).to(dtype)
    pixels_NCHW = torch.randn(2, 3, 16, 16)
    expected = tower(pixels_NCHW)
    with torch.autocast("cpu", torch.bfloat16):
        found = tower(pixels_NCHW)
    assert found.dtype is dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("library", ["open_clip", HF, TIMM])
def test_no_tower_waits_for_the_device(tmp_path: Path, library: str) -> None:
    """Fake tensors have no values: an operation whose result the host needs raises."""
    if library == HF:
        write_hf(tmp_path / "tower")
    elif library == "open_clip":
        write_open_clip(tmp_path / "tower", quick=True, visual=None)
    else:
        write_timm(tmp_path / "tower")
    config = VisionTowerConfig(library=library, path=str(tmp_path / "tower"))
    tower = load_vision_tower(config)
    size = tower.transform.size
    with FakeTensorMode(allow_non_fake_inputs=True):
        features_NPE = tower(torch.empty(2, 3, size, size))
    assert features_NPE.shape == (2, tower.num_image_tokens, tower.width)


def test_open_clip_weights_give_the_same_features_in_hugging_face(tmp_path: Path) -> None:
    write_open_clip(tmp_path / "oc", quick=True, visual=None)
    tower = load_vision_tower(VisionTowerConfig(path=str(tmp_path / "oc")))
    folder = tmp_path / "hf"
    write_hf(folder)
    state = {k: v.contiguous() for k, v in hf_state(tower.visual.state_dict()).items()}
    safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    pixels_NCHW = torch.randn(2, 3, 16, 16)
    other = load_vision_tower(hf_config(folder))
    assert torch.allclose(other(pixels_NCHW), tower(pixels_NCHW), atol=1e-5)


def test_a_full_clip_checkpoint_loads_as_a_tower(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 2, "image_size": 16, "patch_size": 8}  # fmt: skip
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 1, "vocab_size": 32}  # fmt: skip
    clip = CLIPModel(CLIPConfig(vision_config=vision, text_config=text)).eval()
    clip.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    tower = load_vision_tower(hf_config(tmp_path))
    pixels_NCHW = torch.randn(1, 3, 16, 16)
    states = clip.vision_model(pixel_values=pixels_NCHW, output_hidden_states=True).hidden_states
    assert torch.allclose(tower(pixels_NCHW), states[-2][:, 1:], atol=1e-6)


def test_missing_weights_and_other_models_are_rejected(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    state = safetensors.torch.load_file(path)
    del state[sorted(state)[0]]
    safetensors.torch.save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="1 weights are missing"):
        load_vision_tower(hf_config(tmp_path / "hf"))
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ConfigError, match="is a siglip"):
        load_vision_tower(hf_config(tmp_path / "hf"))
    with pytest.raises(CheckpointError, match=r"has no config\.json"):
        load_vision_tower(hf_config(tmp_path))


def test_images_equal_those_of_the_transformers_processor(tmp_path: Path) -> None:
    from transformers import CLIPImageProcessorPil

    write_hf(tmp_path)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, size=(24, 40, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    tower = load_vision_tower(hf_config(tmp_path))
    ours = tower.normalise(tower.transform(buffer.getvalue()))
    theirs = CLIPImageProcessorPil(**IMAGES)(image, return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_square_images_are_squashed(tmp_path: Path) -> None:
    write_hf(tmp_path, size={"height": 16, "width": 16}, do_center_crop=False)
    assert load_vision_tower(hf_config(tmp_path)).transform.resize_mode is ResizeMode.SQUASH


@pytest.mark.parametrize(
    "images",
    [
        {"resample": 2},
        {"size": {"shortest_edge": 18}},
        {"crop_size": {"height": 16, "width": 12}},
        {"do_center_crop": False},
        {"do_normalize": False},
        {"rescale_factor": 1.0},
        {"size": {"longest_edge": 16}},
    ],
)
def test_unsupported_preprocessing_is_rejected(tmp_path: Path, images: dict[str, Any]) -> None:
    write_hf(tmp_path, **images)
    with pytest.raises(ConfigError, match="unsupported image preprocessing"):
        load_vision_tower(hf_config(tmp_path))


def write_timm(folder: Path) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(TIMM_NAME, pretrained=False, num_classes=0).eval()
    folder.mkdir(exist_ok=True)
    config = {
        "architecture": TIMM_NAME, "num_classes": 0,
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic",
                           "input_size": [3, 160, 160], "crop_pct": 0.9, "num_classes": 0,
                           "fixed_input_size": True},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(model.state_dict(), folder / "model.safetensors")
    return model


def test_timm_gives_the_second_to_last_block(tmp_path: Path) -> None:
    model = write_timm(tmp_path)
    tower = load_vision_tower(VisionTowerConfig(library=TIMM, path=str(tmp_path)))
    pixels_NCHW = torch.randn(2, 3, 160, 160)
    seen: list[torch.Tensor] = []
    model.blocks[-2].register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        model(pixels_NCHW)
    expected_NPE = seen[0][:, model.num_prefix_tokens :]
    features_NPE = tower(pixels_NCHW)
    assert features_NPE.shape[1:] == (tower.num_image_tokens, tower.width)
    assert torch.allclose(features_NPE, expected_NPE, atol=1e-5)
    assert (tower.transform.size, tower.transform.std) == (160, (0.25, 0.25, 0.25))


def test_tokens_are_counted_without_weights(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    assert count_image_tokens(hf_config(tmp_path / "hf")) == 16
    write_timm(tmp_path / "timm")
    (tmp_path / "timm" / "model.safetensors").unlink()
    assert count_image_tokens(VisionTowerConfig(library=TIMM, path=str(tmp_path / "timm"))) == 100
    named = VisionTowerConfig(library=TIMM, name="vit_base_patch16_224.augreg_in1k")
    assert count_image_tokens(named) == 14 * 14
    clip = VisionTowerConfig(name="ViT-L-14-336-quickgelu", pretrained="openai")
    assert count_image_tokens(clip) == 24 * 24


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "ViT-L-14-336", "pretrained": "openai"}, r"tower\.name=ViT-L-14-336-quickgelu"),
        ({"name": "ViT-L-14-33", "pretrained": "openai"}, "Did you mean 'ViT-L-14-336'"),
        ({"library": HF, "name": "openai/clip-vit-large-patch14-336"}, "needs a revision"),
        ({"library": TIMM, "name": "vit_base_patch16_224.augreg_in1k"}, "needs a revision"),
        ({"library": TIMM, "name": "vit_bas_patch16_224"}, "unknown timm model"),
        ({"library": HF, "path": "x", "pretrained": "openai"}, "only open_clip has tags"),
        ({"path": "x", "hub_revision": "main"}, "only open_clip has tags"),
        ({"library": TIMM, "path": "x", "feature": POOLED}, "needs tower.library=open_clip"),
        ({"library": "timmm", "path": "x"}, "Did you mean 'timm'"),
    ],
)
def test_contradictory_options_are_rejected(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_vision_tower(VisionTowerConfig(**config))

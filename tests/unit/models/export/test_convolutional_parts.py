"""Parts of the export of convolutional towers: EfficientNet, a wider Llama, the projector."""

import pytest
import timm
import torch
from torch import nn
from transformers import EfficientNetConfig, EfficientNetModel, LlamaConfig, LlamaForCausalLM

from core.errors import ConfigError
from models.connector import ConnectorConfig, build_connector
from models.export.efficient_net import convert_efficient_net
from models.export.fast_vlm import count_halvings, projector_weights
from models.export.widening import widen_llama
from models.towers.vision_tower import pool_grids

SIZE = 128


@pytest.fixture(scope="module")
def trunk() -> nn.Module:
    """EfficientNet-Lite with random weights and batch norms that change something."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    for name, value in model.state_dict().items():
        if name.endswith(("bias", "running_mean")):
            value.uniform_(-0.3, 0.3)
        elif value.ndim == 1:
            value.uniform_(0.5, 2.0)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("num_halvings", "grid"), [(0, 4), (1, 2), (2, 1)])
def test_the_converted_tower_gives_the_same_cells(
    trunk: nn.Module, num_halvings: int, grid: int
) -> None:
    config, state = convert_efficient_net(trunk, image_size=SIZE, num_halvings=num_halvings)
    theirs = EfficientNetModel(EfficientNetConfig(**config)).eval()
    theirs.load_state_dict(state, strict=True)
    pixels_NCHW = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        maps_NCHW = trunk.forward_features(pixels_NCHW)  # type: ignore[operator]
        cells_NFC = theirs(pixels_NCHW).last_hidden_state.flatten(2)
    expected_NCF = pool_grids(maps_NCHW, (grid,))
    assert expected_NCF.std() > 0.1
    torch.testing.assert_close(cells_NFC.transpose(1, 2), expected_NCF, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("efficientnet_lite0", SIZE, "supported is timm's tf_efficientnet_lite0"),
        ("tf_efficientnet_b0", SIZE, "supported is timm's tf_efficientnet_lite0"),
        ("resnet18", SIZE, "a ResNet tower with pooled features can't be exported"),
        ("tf_efficientnet_lite2", SIZE, "must divide 1280"),
        ("tf_efficientnet_lite0", 144, "144 pixels can't be exported"),
    ],
)
def test_other_towers_are_refused(name: str, size: int, message: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(ConfigError, match=message):
        convert_efficient_net(model, image_size=size, num_halvings=1)


@pytest.mark.parametrize(
    ("side", "grids", "number"), [(6, [6], 0), (6, [3], 1), (8, [1], 3), (7, [7], 0)]
)
def test_maps_are_halved_to_the_grid(side: int, grids: list[int], number: int) -> None:
    assert count_halvings(side, grids) == number


@pytest.mark.parametrize("grids", [[1, 2], [2], [1], [12]])
def test_grids_without_a_counterpart_are_refused_with_a_fix(grids: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"train with model.tower.grids=\[3\] or \[6\]"):
        count_halvings(6, grids)


def tiny_llama(**more: object) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=32, num_hidden_layers=2, intermediate_size=48, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=61, initializer_range=0.3, attention_bias=True,
        mlp_bias=True, rms_norm_eps=0.01, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model


@pytest.mark.parametrize("width", [32, 48, 200])
def test_a_wider_llama_gives_the_same_logits(width: int) -> None:
    narrow = tiny_llama()
    config, state = widen_llama(narrow.config.to_dict(), narrow.state_dict(), width=width)
    wide = LlamaForCausalLM(LlamaConfig(**config)).eval()
    wide.load_state_dict(state, strict=True)
    assert wide.get_input_embeddings().weight.shape == (61, width)
    ids_BT = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        torch.testing.assert_close(wide(ids_BT).logits, narrow(ids_BT).logits, atol=1e-4, rtol=1e-4)


def test_only_a_llama_is_widened() -> None:
    config = {"model_type": "qwen2", "hidden_size": 32}
    assert widen_llama(config, {}, width=32) == (config, {})
    with pytest.raises(ConfigError, match="'qwen2' and width 32 can't be exported"):
        widen_llama(config, {}, width=64)


def test_the_projector_is_the_head_followed_by_the_connector() -> None:
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(20, 12), nn.GELU(), nn.Linear(12, 6))
    connector = build_connector(ConnectorConfig(), vision_width=6, model_width=8, seed=0)
    nn.init.normal_(connector.proj.bias)
    found = projector_weights(head, connector, width=12)
    features_PF = torch.randn(5, 20)
    hidden = nn.functional.gelu(
        nn.functional.linear(features_PF, found["linear_1.weight"], found["linear_1.bias"])
    )
    output = nn.functional.linear(hidden, found["linear_2.weight"], found["linear_2.bias"])
    expected = connector(head(features_PF))
    torch.testing.assert_close(output[:, :8], expected, atol=1e-6, rtol=1e-5)
    assert not output[:, 8:].any()


def test_other_heads_and_connectors_are_refused() -> None:
    head = nn.Sequential(nn.Linear(20, 12), nn.GELU(), nn.Linear(12, 6))
    config = ConnectorConfig(kind="mlp2x_gelu")
    mlp = build_connector(config, vision_width=6, model_width=8, seed=0)
    linear = build_connector(ConnectorConfig(), vision_width=6, model_width=8, seed=0)
    with pytest.raises(ConfigError, match=r"connector\.kind=linear only"):
        projector_weights(head, mlp, width=12)
    for other in (nn.Linear(20, 6), nn.Sequential(head[0], nn.GELU("tanh"), head[2])):
        with pytest.raises(ConfigError, match="another head"):
            projector_weights(other, linear, width=12)

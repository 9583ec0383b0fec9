"""Export to Hugging Face: equal features, projector and chat template."""

import open_clip
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, PreTrainedTokenizerFast

from core.chat.format import ChatFormat
from core.chat.templates import EMBEDDED, LLAMA3, ChatTemplate
from core.errors import ConfigError
from core.samples import Role, Turn
from models.connector import Connector, ConnectorConfig, build_connector
from models.export.llava import projector_weights
from models.export.processor import chat_template, image_processor_config
from models.towers.image_transform import ImageTransform, ResizeMode
from models.towers.libraries.open_clip import OpenClipTower
from models.towers.vision_tower import VisionTower, VisionTowerConfig
from tests.support.doubles import make_tokenizer

_SIZE = 32
_NORMAL = (0.5, 0.4, 0.3)


def _tower(*, quick_gelu: bool) -> VisionTower:
    torch.manual_seed(0)
    vision = {"image_size": _SIZE, "patch_size": 8, "width": 16, "head_width": 8, "layers": 3}
    text = {"context_length": 4, "vocab_size": 16, "width": 8, "heads": 1, "layers": 1}
    visual = open_clip.CLIP(12, vision_cfg=vision, text_cfg=text, quick_gelu=quick_gelu).visual
    for parameter in visual.parameters():  # large enough that activations tell GELUs apart
        torch.nn.init.normal_(parameter, std=0.5)
    transform = ImageTransform(size=_SIZE, mean=_NORMAL, std=_NORMAL)
    return OpenClipTower(visual, VisionTowerConfig(path="unused"), transform)


@pytest.mark.parametrize("quick_gelu", [True, False])
def test_the_exported_tower_gives_the_same_features(quick_gelu: bool) -> None:
    tower = _tower(quick_gelu=quick_gelu)
    config = CLIPVisionConfig(**tower.clip_vision_config())
    assert config.hidden_act == ("quick_gelu" if quick_gelu else "gelu")
    theirs = CLIPVisionModel(config).eval()
    names = {name.removeprefix("vision_model.") for name in theirs.state_dict()}
    state = tower.clip_vision_weights()
    assert state.keys() == {name for name in names if not name.endswith("position_ids")}
    prefix = "vision_model." if hasattr(theirs, "vision_model") else ""
    theirs.load_state_dict({prefix + name: value for name, value in state.items()}, strict=True)
    pixels_NCHW = torch.randn(2, 3, _SIZE, _SIZE)
    with torch.no_grad():
        states = theirs(pixels_NCHW, output_hidden_states=True).hidden_states
    features_NPE = tower(pixels_NCHW)
    scale = features_NPE.abs().max()
    assert (features_NPE - states[-2][:, 1:]).abs().max() <= 1e-5 * scale
    assert (features_NPE - states[-1][:, 1:]).abs().max() > 0.01 * scale


def test_the_two_gelus_differ_measurably() -> None:
    quick, plain = (_tower(quick_gelu=is_quick) for is_quick in (True, False))
    pixels_NCHW = torch.randn(1, 3, _SIZE, _SIZE)
    assert (quick(pixels_NCHW) - plain(pixels_NCHW)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "vision_width", "act"),
    [
        ("linear", 16, "gelu"),
        ("linear", 17, "linear"),
        ("linear", 32, "linear"),
        ("mlp2x_gelu", 48, "gelu"),
    ],
)
def test_the_exported_projector_equals_the_connector(
    kind: str, vision_width: int, act: str
) -> None:
    connector = _connector(kind, vision_width)
    found, state, warnings = projector_weights(connector, model_width=32)
    assert found == act
    assert bool(warnings) == (act == "linear")
    features_NPE = 5 * torch.randn(2, 7, vision_width)
    hidden_NPD = torch.nn.functional.linear(
        features_NPE, state["linear_1.weight"], state["linear_1.bias"]
    )
    if act == "gelu":
        hidden_NPD = torch.nn.functional.gelu(hidden_NPD)
    projected_NPD = torch.nn.functional.linear(
        hidden_NPD, state["linear_2.weight"], state["linear_2.bias"]
    )
    assert (projected_NPD - connector(features_NPE)).abs().max() <= 1e-5
    names = {f"linear_{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    assert state.keys() == names


def test_a_linear_connector_from_a_wider_tower_is_rejected() -> None:
    with pytest.raises(ConfigError, match="from 40 to 32"):
        projector_weights(_connector("linear", 40), model_width=32)


def _connector(kind: str, vision_width: int) -> Connector:
    config = ConnectorConfig(kind=kind)
    connector = build_connector(config, vision_width=vision_width, model_width=32, seed=0)
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return connector.eval()


def _conversations() -> list[list[Turn]]:
    question = Turn(role=Role.USER, content="<image>\nZer da hau?")
    answer = Turn(role=Role.ASSISTANT, content=' etxe "bat"\n{{ etxea }} ')
    system = Turn(role=Role.SYSTEM, content="Erantzun\tlabur.\n")
    more = Turn(role=Role.USER, content="Eta kolorea? 'gorria' \\n")
    return [[question], [system, question], [question, answer, more], [system, more, answer, more]]


def _tokenizer(template: ChatTemplate) -> PreTrainedTokenizerFast:
    tokenizer = make_tokenizer()
    marks = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", template.image_token)
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    return tokenizer


@pytest.mark.parametrize("template", [EMBEDDED, LLAMA3], ids=lambda template: template.name)
@pytest.mark.parametrize("number", range(4))
def test_the_jinja_template_renders_what_we_encode(template: ChatTemplate, number: int) -> None:
    chat = ChatFormat(_tokenizer(template), template, num_image_tokens=1)
    turns = _conversations()[number]
    messages = [{"role": turn.role.value, "content": turn.content} for turn in turns]
    chat.tokenizer.chat_template = chat_template(template)
    found = chat.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    assert list(found["input_ids"]) == chat.encode_prompt(turns).tolist()


def test_content_as_a_list_renders_the_same_text() -> None:
    tokenizer = _tokenizer(EMBEDDED)
    tokenizer.chat_template = chat_template(EMBEDDED)
    parts = [{"type": "image"}, {"type": "text", "text": "Zer da?"}]
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
        for content in (parts, "<image>\nZer da?")
    ]
    assert texts[0] == texts[1] == "<|begin_of_text|><|user|><|image|>\nZer da?"


def test_an_unknown_role_is_rejected() -> None:
    tokenizer = _tokenizer(EMBEDDED)
    tokenizer.chat_template = chat_template(EMBEDDED)
    with pytest.raises(Exception, match="unknown role tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


@pytest.mark.parametrize(
    ("mode", "crops"), [(ResizeMode.SHORTEST, True), (ResizeMode.SQUASH, False)]
)
def test_the_image_processor_matches_the_transform(mode: ResizeMode, crops: bool) -> None:
    transform = ImageTransform(size=_SIZE, mean=_NORMAL, std=_NORMAL, resize_mode=mode)
    settings = image_processor_config(transform)
    assert settings["do_center_crop"] is crops
    assert ("shortest_edge" in settings["size"]) is crops

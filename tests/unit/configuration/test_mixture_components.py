"""From configuration to components: text inside or on top, phases, and what an address holds."""

import dataclasses
from pathlib import Path

import pytest

from configuration.mixture_lines import PhaseConfig
from configuration.run_config import RunConfig
from configuration.vlm_spec import VlmSpec
from core.config import load_config, to_plain
from core.errors import ConfigError
from datamodules.mixture.config import (
    ComponentConfig,
    MixtureConfig,
    Phase,
    ShareOf,
    TargetSamples,
)
from datamodules.mixture_datamodule import StreamConfig
from experiments.run import build_parser
from lightning_modules.optim import OptimConfig
from models.connector import ConnectorConfig
from models.freezing import FreezePolicy
from models.language.language_model import LanguageModelConfig
from models.towers.vision_tower import VisionTowerConfig
from pipeline.graph import StageNode
from pipeline.stages.align import AlignStage
from pipeline.stages.instruct import InstructStage

VLM = VlmSpec(
    tower=VisionTowerConfig(path="tower"), connector=ConnectorConfig(),
    language_model=LanguageModelConfig(path="lm"), template="embedded",
)  # fmt: skip
CONFIG = """
backbones: {{general: {{path: lm}}}}
cell: {{text_only: true, target_share: 0.2}}
align: {{optim: {{lr: 0.1}}}}
instruct:
  optim: {{lr: 0.1}}
  num_steps: 400
  {more}
"""
LINES = """visual:
    talk: {source: talk, samples_per_step: 10}
    look: {source: look, samples_per_step: 6}
  text_only:
    chat: {source: chat, samples_per_step: 3}
    text: {source: text, samples_per_step: 1}"""


@pytest.fixture
def components(tmp_path):
    def make(more, *overrides):
        path = tmp_path / "run.yaml"
        path.write_text(CONFIG.format(more=more))
        config = load_config(RunConfig, path, overrides=overrides)
        return InstructStage.from_config(config).stream.mixture.components

    return make


def rates(components, step=0):
    return {name: part.at(step)[0] for name, part in components.items()}


def test_text_on_top_is_the_default(components):
    assert rates(components(LINES)) == {"talk": 10, "look": 6, "chat": 3, "text": 1}
    assert rates(components(LINES, "cell.text_only=false")) == {"talk": 10, "look": 6}


def test_text_inside_keeps_the_step(components):
    inside = "instruct.text_only_as=inside"
    assert rates(components(LINES, inside)) == {"talk": 7.5, "look": 4.5, "chat": 3, "text": 1}
    without = components(LINES, inside, "cell.text_only=false")
    assert rates(without) == {"talk": 10, "look": 6}
    assert components(LINES, inside)["talk"].phases == []


def test_text_inside_follows_the_phases(components):
    lines = LINES.replace(
        "chat, samples_per_step: 3}",
        "chat, samples_per_step: 0, phases: [{from_fraction: 0.5, samples_per_step: 3}]}",
    )
    parts = components(lines, "instruct.text_only_as=inside")
    assert rates(parts, 199) == {"talk": 9.375, "look": 5.625, "chat": 0, "text": 1}
    assert rates(parts, 200) == {"talk": 7.5, "look": 4.5, "chat": 3, "text": 1}
    assert parts["talk"].phases == [Phase(from_step=200, samples_per_step=7.5)]
    assert parts["text"].phases == []


def test_a_share_may_change_where_the_text_does_not(components):
    lines = LINES.replace(
        "look, samples_per_step: 6}",
        "look, samples_per_step: 6, phases: [{from_step: 100, target_share: 0.9}]}",
    )
    parts = components(lines, "instruct.text_only_as=inside")
    assert parts["look"].phases == [Phase(from_step=100, target_share=0.9)]
    assert parts["talk"].phases == []
    assert parts["look"].at(99) == (4.5, 0.2)
    assert parts["look"].at(100) == (4.5, 0.9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "instruct.text_only.chat.samples_per_step=15",
            "16 text samples do not fit into the 16 image samples of step 0; lower text_only",
        ),
        (
            "instruct.text_only.chat.samples_per_step=2.003",
            "inside leaves .* of the 10 samples per step of 'talk'.*choose simpler fractions",
        ),
    ],
)
def test_text_that_does_not_fit_inside(components, override, message):
    with pytest.raises(ConfigError, match=message):
        components(LINES, "instruct.text_only_as=inside", override)


def test_shares_of_tokens_reach_the_stream(components):
    parts = components(LINES, "instruct.visual.talk.share_of=loss_tokens")
    assert parts["talk"].share_of is ShareOf.LOSS_TOKENS
    assert parts["look"].share_of is ShareOf.SAMPLES


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["instruct.text_only.chat.share_of=loss_tokens"], "text_only.chat has target-language"),
        (
            ["instruct.text_only.chat.phases=[{from_step: 3, target_share: 0.5}]"],
            "text_only.chat has target-language data only",
        ),
        (
            ["instruct.visual.talk.phases=[{target_share: 0.5}]"],
            "from_step=None, from_fraction=None; set exactly one of them",
        ),
        (
            ["instruct.visual.talk.phases=[{from_fraction: 1.0, target_share: 0.5}]"],
            "from_fraction=1.0: must be between 0 and 1",
        ),
        (
            ["instruct.visual.talk.phases=[{from_fraction: 0.001, target_share: 0.5}]"],
            "phase from step 0, expected 1 or more",
        ),
        (
            ["instruct.visual.chat.source=x", "instruct.visual.chat.samples_per_step=1"],
            "'chat' names a line in both `visual` and `text_only`",
        ),
        (["align.text_only_as=inside"], "text_only_as=inside, but `text_only` has no lines"),
    ],
)
def test_refused_lines(components, overrides, message):
    with pytest.raises(ConfigError, match=message):
        components(LINES, *overrides)


def test_the_worked_example_of_the_documentation(tmp_path):
    text = Path("docs/guides/mixtures.md").read_text(encoding="utf-8")
    example = tmp_path / "example.yaml"
    example.write_text(text.split("```yaml\n")[1].split("```")[0])
    config = load_config(RunConfig, Path("configs/embedded.yaml"), example)
    parts = InstructStage.from_config(config).stream.mixture.components
    assert rates(parts) == {"conversations": 12, "chat": 3, "text": 1}
    assert parts["conversations"].share_of is ShareOf.LOSS_TOKENS
    assert parts["conversations"].phases == [Phase(from_step=350, target_share=0.8)]
    assert parts["conversations"].target_share == 0.4


def test_both_beginnings_are_refused():
    with pytest.raises(ConfigError, match="set exactly one of them"):
        PhaseConfig(from_step=3, from_fraction=0.5, target_share=0.1)
    assert PhaseConfig(from_fraction=0.25, target_share=0.1).first_step(401) == 100


# --- Addresses ---


def address(stream):
    stage = AlignStage(
        model=VLM, stream=stream, optim=OptimConfig(lr=0.1), num_steps=2, seed=0,
        policy=FreezePolicy(),
    )  # fmt: skip
    return StageNode(stage=stage, title="t", inputs={}, content={"a": "x"}, params={}).address


def make_stream(**changes):
    part = ComponentConfig(base="a", target="b", target_share=0.4, samples_per_step=4.5)
    part = dataclasses.replace(part, **changes)
    return StreamConfig(mixture=MixtureConfig(components={"cap": part}), num_workers=3)


def test_execution_settings_are_no_part_of_an_address():
    plain = make_stream()
    assert address(plain) == address(dataclasses.replace(plain, num_workers=0))


def test_new_fields_are_in_the_address_where_they_act():
    plain = address(make_stream())
    tokens = address(make_stream(share_of=ShareOf.LOSS_TOKENS))
    phased = address(make_stream(phases=[Phase(from_step=3, target_share=0.5)]))
    assert len({plain, tokens, phased}) == 3


def test_allow_data_change_is_a_flag_and_no_part_of_a_spec():
    args = build_parser().parse_args(["--exp", "smoke", "--set", "a=1", "--allow-data-change"])
    assert args.overrides == ["a=1", "trainer.allow_data_change=true"]
    assert build_parser().parse_args(["--exp", "smoke"]).overrides == []
    path = Path("configs/embedded.yaml")
    configs = [
        load_config(RunConfig, path, overrides=[f"trainer.allow_data_change={value}"])
        for value in ("true", "false")
    ]
    assert configs[0].trainer.allow_data_change is True
    specs = [to_plain(InstructStage.from_config(config)) for config in configs]
    assert specs[0] == specs[1]


def test_an_unused_amount_or_limit_is_no_part_of_an_address():
    """They were added later, and must not recompute every result."""
    stage = to_plain(make_stream(), with_execution=False)
    assert "target_samples" not in stage["mixture"]
    amount = dataclasses.replace(
        make_stream(target_share=0.0).mixture,
        target_samples=TargetSamples(number=3, num_steps=2),
    )
    numbered = StreamConfig(mixture=amount)
    assert address(make_stream(target_share=0.0)) != address(numbered)


# --- Amounts ---


def stage_mixture_of(tmp_path, *overrides, stage_class=InstructStage):
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.format(more=LINES))
    config = load_config(RunConfig, path, overrides=overrides)
    return stage_class.from_config(config).stream.mixture


def test_a_number_of_samples_replaces_the_share_of_the_cell(tmp_path):
    by_share = stage_mixture_of(tmp_path)
    assert by_share.target_samples is None
    number = ("cell.target_share=null", "cell.target_samples=70")
    mixture = stage_mixture_of(tmp_path, *number)
    assert mixture.target_samples == TargetSamples(number=70, num_steps=400)
    assert {part.target_share for part in mixture.components.values()} == {0.0}
    assert "data/embedded/talk_eu.manifest.json" in mixture.used_manifests()
    own_share = stage_mixture_of(tmp_path, *number, "instruct.target_share=0.5")
    assert own_share.target_samples is None
    assert own_share.components["talk"].target_share == 0.5
    both = stage_mixture_of(tmp_path, *number, "cell.base_samples=30")
    assert both.target_samples == TargetSamples(number=70, num_steps=400, num_base=30)
    own_number = stage_mixture_of(tmp_path, "instruct.target_samples=9")
    assert own_number.target_samples == TargetSamples(number=9, num_steps=400)
    assert own_number.components["talk"].target_share == 0.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cell.target_samples=3"], "cell.target_share=0.2 and target_samples=3; set exactly one"),
        (["cell.target_share=null"], "are both null; set exactly one of them"),
        (["cell.target_share=null", "cell.target_samples=-1"], "at least 0, got -1"),
        (["instruct.target_share=0.1", "instruct.target_samples=3"], "set exactly one of them"),
        (
            [
                "instruct.target_samples=3",
                "instruct.visual.talk.phases=[{from_step: 9, target_share: 0.5}]",
            ],
            "'talk' has a target_share, and the mixture has target_samples=3",
        ),
        (["instruct.base_samples=9"], "base_samples=9 without target_samples; set both"),
        (["cell.target_share=null", "cell.target_samples=0", "cell.base_samples=0"], "both 0"),
    ],
)
def test_refused_amounts(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        stage_mixture_of(tmp_path, *overrides)

"""Values of the configuration that are rejected before anything runs."""

from pathlib import Path

import pytest
import yaml

from configuration.data_config import DataConfig, ExpectedSource
from configuration.model_config import ReadyMadeConfig
from configuration.run_config import EvaluateConfig, RunConfig
from core.config import load_config
from core.errors import ConfigError
from evaluation.benchmarks.items import Benchmark
from lightning_modules.compute import ComputeConfig, StrategyName
from models.freezing import FreezePolicy
from models.towers.vision_tower import VisionTowerConfig
from tests.support.small_world import REPOSITORY

PROFILES = sorted((REPOSITORY / "configs").glob("*.yaml"))


def test_the_list_of_benchmarks_has_at_least_one_and_none_twice() -> None:
    assert DataConfig().benchmarks == ["benchmark_test"]
    with pytest.raises(ConfigError, match=r"data\.benchmarks is empty"):
        DataConfig(benchmarks=[])
    with pytest.raises(ConfigError, match="name a benchmark twice: vqa, mine, vqa"):
        DataConfig(benchmarks=["vqa", "mine", "vqa"])


def test_each_kind_of_benchmark_has_a_limit_of_its_own() -> None:
    limits = EvaluateConfig(max_new_tokens=8, max_new_tokens_by_kind={"wild": 4096}).limits
    assert [limits.of_kind(kind) for kind in (Benchmark.VQA, Benchmark.WILD)] == [8, 4096]
    assert EvaluateConfig().limits.of_kind(Benchmark.WILD) == 4096


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"max_new_tokens": 0}, r"evaluate\.max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens_by_kind": {"wlid": 9}}, "unknown kind of benchmark 'wlid'.*'wild'"),
        ({"max_new_tokens_by_kind": {"wild": 0}}, r"max_new_tokens_by_kind\.wild must be at least"),
        ({"prompt_style": ""}, r"evaluate\.prompt_style is empty"),
        ({"batch_size": 0}, r"evaluate\.batch_size must be at least 1, got 0"),
        ({"wordings": ["a", "a"]}, r"evaluate\.wordings=\['a', 'a'\] repeats a style"),
        ({"wordings": ["instructed"]}, r"other than evaluate\.prompt_style=instructed"),
    ],
)
def test_invalid_settings_of_the_evaluation_are_rejected(
    fields: dict[str, object], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        EvaluateConfig(**fields)  # type: ignore[arg-type]


def test_expected_questions_are_counted_by_kind() -> None:
    with pytest.raises(ConfigError, match="sums to 3, but num_samples is 4"):
        ExpectedSource(num_samples=4, text_tokens={}, questions_by_kind={"vqa": 3})
    with pytest.raises(ConfigError, match="unknown kind of benchmark 'pope'"):
        ExpectedSource(num_samples=4, text_tokens={}, questions_by_kind={"pope": 4})


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_every_profile_says_how_it_asks(path: Path) -> None:
    """A default that fits one model asks another one in a way that its authors did not mean."""
    stated = yaml.safe_load(path.read_text())["evaluate"]
    assert stated.keys() >= {
        "prompt_style",
        "yes_no_policy",
        "relaxed",
        "max_new_tokens",
        "max_new_tokens_by_kind",
    }
    assert stated["max_new_tokens_by_kind"].keys() == {"open", "wild"}


def test_the_paper_profile_asks_as_the_benchmarks_authors_do() -> None:
    (path,) = (path for path in PROFILES if path.stem == "paper")
    stated = yaml.safe_load(path.read_text())["evaluate"]
    assert stated["prompt_style"] == "instructed"
    assert stated["max_new_tokens_by_kind"]["wild"] == 4096


def test_gradients_are_reduced_once_only_where_they_are_sharded() -> None:
    assert ComputeConfig(strategy=StrategyName.FSDP2, reduce_once=True).reduce_once
    with pytest.raises(
        ConfigError, match=r"reduce_once=true needs strategy fsdp2 or hsdp, got ddp"
    ):
        ComputeConfig(strategy=StrategyName.DDP, reduce_once=True)


def test_architectures_decide_what_stages_train_and_what_is_supported() -> None:
    profile, kind = Path("configs/embedded.yaml"), "model.connector.kind=cross_attention"
    plain, frozen = (load_config(RunConfig, profile, overrides=o) for o in ([], [kind]))
    assert plain.instruct_policy == FreezePolicy(connector=True, language_model=True)
    assert plain.align_policy == frozen.align_policy == frozen.instruct_policy == FreezePolicy()
    opened = ["instruct.policy.language_model=true", "instruct.tuning.kind=lora"]
    trained = load_config(RunConfig, profile, overrides=[kind, *opened])
    assert trained.instruct_policy.language_model
    with pytest.raises(ConfigError, match=r"instruct\.tuning"):
        load_config(RunConfig, profile, overrides=[kind, opened[1]])
    with pytest.raises(ConfigError, match=r"align\.compute\.compile_blocks=true is not supported"):
        load_config(RunConfig, profile, overrides=[kind, "align.compute.compile_blocks=true"])
    pixels = load_config(RunConfig, profile, overrides=["model.connector.kind=single_stream"])
    assert pixels.model.vision == VisionTowerConfig(library="patches", name="64/16")
    assert plain.model.has_feature_cache
    assert not pixels.model.has_feature_cache


def test_limits_of_ready_made_images_are_checked() -> None:
    assert ReadyMadeConfig(min_pixels=4, max_pixels=9).max_pixels == 9
    with pytest.raises(ConfigError, match="max_pixels must be at least 1, got 0"):
        ReadyMadeConfig(max_pixels=0)
    with pytest.raises(ConfigError, match="exchange them"):
        ReadyMadeConfig(min_pixels=9, max_pixels=4)

"""Values of the configuration that are rejected before anything runs."""

import pytest

from configuration.run_config import DataConfig
from core.errors import ConfigError


def test_the_list_of_benchmarks_has_at_least_one_and_none_twice() -> None:
    assert DataConfig().benchmarks == ["benchmark_test"]
    with pytest.raises(ConfigError, match=r"data\.benchmarks is empty"):
        DataConfig(benchmarks=[])
    with pytest.raises(ConfigError, match="names a benchmark twice: vqa, mine, vqa"):
        DataConfig(benchmarks=["vqa", "mine", "vqa"])

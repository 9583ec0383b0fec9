"""Folders of the recipes that ship with the repository; commands list them in their help."""

from pathlib import Path

_DATA_PREP = Path(__file__).parents[1]
SOURCES, PREPARE_RECIPES, BENCHMARK_RECIPES = (
    _DATA_PREP / name for name in ("sources", "recipes", "benchmarks")
)

"""Checks of the benchmarks of a grid before anything is trained."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from configuration.mixture import benchmark_manifests
from configuration.run_config import RunConfig
from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import TEMPLATES
from core.config import to_plain
from core.errors import ConfigError, DataError, unknown_name
from datamodules.shards.manifest import load_manifest
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import BenchmarkItem, load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.item_checks import check_items
from pipeline.content import ContentHashes


class BenchmarkChecks:
    """Checks every benchmark once for all cells that ask it in the same way."""

    def __init__(self, hashes: ContentHashes) -> None:
        """Create the checks; benchmarks that `hashes` expects and that are missing are left out."""
        self._hashes = hashes
        self._checked: set[str] = set()

    def check(self, config: RunConfig) -> None:
        """Check the prompts and the benchmarks of a cell.

        Raises:
            ConfigError: If a benchmark lacks a language of the study, or an item can't be asked
                or scored with the settings of the evaluation.
            DataError: If a benchmark can't be read, a question has a special token of the
                tokenizer, or the answer to a yes/no item is neither.
        """
        languages = (config.languages.base, config.languages.target)
        settings = AskingConfig.of(config.evaluate)
        paths = [p for p in benchmark_manifests(config) if not self._hashes.is_missing(p)]
        backbone = config.backbone
        settings_of_cell = [to_plain(settings), backbone.path, backbone.template]
        key = json.dumps([paths, languages, settings_of_cell], sort_keys=True)
        if key in self._checked:
            return
        for path in paths:
            check_languages(path, languages)
        load_prompts(languages, style=settings.prompt_style)
        for path in paths:
            items = load_benchmark(Path(path), languages, with_images=False)
            check_items(items, settings)
            if Path(backbone.path).is_dir():  # on the hub, the tokenizer is not known yet
                check_special_tokens(items, backbone.path, backbone.template)
        self._checked.add(key)


def check_languages(benchmark: str, languages: tuple[str, ...]) -> None:
    """Reject languages that the benchmark at a path does not have.

    Raises:
        ConfigError: If the benchmark lacks a language.
    """
    manifest = load_manifest(Path(benchmark))
    available = manifest.language.split(",")
    for language in languages:
        if language not in available:
            kind = f"language of benchmark '{manifest.name}'"
            raise ConfigError(unknown_name(kind, language, available, fix="See data_prep."))


def check_special_tokens(items: Sequence[BenchmarkItem], tokenizer: str, template: str) -> None:
    """Reject questions that contain a special token of a tokenizer, which could forge turns.

    Args:
        items: Items of a benchmark.
        tokenizer: Folder of the tokenizer.
        template: Name of the chat template.

    Raises:
        ConfigError: If the tokenizer can't be loaded, or does not fit the template.
        DataError: If a question or a choice contains such a token.
    """
    chat = _text_format(tokenizer, template)
    for item in items:
        for text in (item.question, *item.choices):
            try:
                chat.check_content(text)
            except DataError as error:
                raise DataError(
                    f"benchmark '{item.dataset}', question '{item.question_id}' in "
                    f"'{item.language}': {error}",
                    error.fault,
                ) from error


@cache
def _text_format(tokenizer: str, template: str) -> ChatFormat:
    return ChatFormat(load_tokenizer(tokenizer), TEMPLATES[template], num_image_tokens=1)

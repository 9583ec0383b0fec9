"""Checks of the benchmarks of a grid before anything is trained."""

import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from configuration.mixture import benchmark_manifests, out_of_domain_manifests
from configuration.run_config import RunConfig
from configuration.vlm_spec import VlmSpec
from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import TEMPLATES
from core.config import to_plain
from core.errors import ConfigError, DataError, unknown_name
from datamodules.shards.manifest import load_manifest
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import BenchmarkItem, load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.item_checks import check_items
from evaluation.reply_length_checks import check_reply_lengths
from pipeline.content import ContentHashes
from planner.encoding import chat_of


class BenchmarkChecks:
    """Checks every benchmark once for all cells that ask it in the same way."""

    def __init__(self, hashes: ContentHashes) -> None:
        """Create the checks; benchmarks that `hashes` expects and that are missing are left out."""
        self._hashes = hashes
        self._checked: set[str] = set()

    def check(self, config: RunConfig) -> None:
        """Check the prompts and the benchmarks of a cell.

        The lengths of replies are checked where the tokenizer of the cell can be loaded; without
        it the cell can't be trained either.

        Raises:
            ConfigError: If a benchmark lacks a language of the study, an item can't be asked or
                scored with the settings of the evaluation, or no answer to it fits into a reply.
            DataError: If a benchmark can't be read, a question has a special token of the
                tokenizer, or the answer to a yes/no item is neither.
        """
        languages = (config.languages.base, config.languages.target)
        settings = AskingConfig.of(config.evaluate)
        worded = [
            dataclasses.replace(settings, prompt_style=style) for style in config.evaluate.wordings
        ]
        paths = [p for p in benchmark_manifests(config) if not self._hashes.is_missing(p)]
        paths += out_of_domain_manifests(config)
        backbone = config.backbone
        model = [backbone.path, backbone.revision, backbone.template]
        key = json.dumps([paths, languages, to_plain([settings, *worded]), model], sort_keys=True)
        if key in self._checked:
            return
        for path in paths:
            check_languages(path, languages)
        for asked in (settings, *worded):
            load_prompts(languages, style=asked.prompt_style)
        chat = _text_format(VlmSpec.from_config(config)) if paths else None
        for path in paths:
            items = load_benchmark(Path(path), languages, with_images=False)
            for asked in (settings, *worded):
                check_items(items, asked)
            if chat is not None:
                check_special_tokens(items, chat)
                check_reply_lengths(items, settings, chat.count_reply_tokens)
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
            fix = "Build data in it (docs/guides/new-language.md) and set data.folder."
            raise ConfigError(unknown_name(kind, language, available, fix=fix))


def check_special_tokens(items: Sequence[BenchmarkItem], chat: ChatFormat) -> None:
    """Reject questions that contain a special token of a tokenizer, which could forge turns.

    Args:
        items: Items of a benchmark.
        chat: Chat format of the cell.

    Raises:
        DataError: If a question or a choice contains such a token.
    """
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
def _text_format(model: VlmSpec) -> ChatFormat | None:
    """Return the chat format of a model; None if its tokenizer has not been downloaded.

    Raises:
        ConfigError: If a local tokenizer can't be loaded, or does not fit the template.
    """
    place = model.language_model
    try:
        if model.ready_made is not None:
            return chat_of(model)
        tokenizer = load_tokenizer(place.path, revision=place.revision, is_local=True)
    except ConfigError:
        if Path(place.path).is_dir():
            raise
        return None
    return ChatFormat(tokenizer, TEMPLATES[model.template], num_image_tokens=1)

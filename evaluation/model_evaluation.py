"""Evaluation of a checkpoint or a served model, as the options of `evaluation.run` say.

Replies are stored while the model is asked, so that the same command resumes an interrupted
evaluation.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from core.config import fingerprint, load_config
from core.errors import ConfigError
from core.io.endpoint import Endpoint, EndpointConfig
from core.io.files import check_writable, sole_writer
from core.io.hub import hub_commit
from core.io.model_files import check_model_settings, hash_model_folder
from core.process.log import get_logger
from datamodules.shards.manifest import verify
from evaluation.answerers.cached import BATCHES_PER_SLICE, CachedAnswerer
from evaluation.answerers.endpoint import EndpointAnswerer
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.asking import ASKING_FILE, AskingConfig
from evaluation.benchmarks.items import BenchmarkItem, load_benchmark
from evaluation.benchmarks.predictions import PREDICTIONS_FILE
from evaluation.item_checks import check_items
from evaluation.reply_length_checks import find_unreachable
from evaluation.runner import EvaluationOptions, EvaluationResult, evaluate

_LOG = get_logger("evaluate")
_KEY_LENGTH = 16


def evaluate_model(options: argparse.Namespace) -> EvaluationResult:
    """Evaluate a checkpoint or a served model and write the results.

    Everything that can be checked is checked before the model is loaded.

    Raises:
        ConfigError: If the output folder exists or another command writes it, the prompt style or
            revision is missing, or an item can't be asked or scored.
        CheckpointError: If the checkpoint can't be loaded or is incomplete.
        DataError: If the benchmark can't be read or lacks a language.
        EndpointError: If the endpoint refuses a request.
        OSError: If the output folder can't be written.
    """
    with sole_writer(options.out):
        return _run_alone(options)


def _run_alone(options: argparse.Namespace) -> EvaluationResult:
    if options.out.exists() and not _is_unfinished(options.out):
        raise ConfigError(f"{options.out} exists; choose another folder or delete it")
    _check_values(options)
    settings = choose_settings(options)
    verify(options.benchmark, deep=True)
    items = load_benchmark(options.benchmark, languages=options.languages)
    items = items[: options.limit] if options.limit else items
    check_items(items, settings)
    check_writable(options.out)
    asked = EvaluationOptions.from_config(settings, blind=not options.no_blind)
    if options.endpoint:
        return _evaluate_endpoint(options, items, asked)
    return _evaluate_checkpoint(options, items, settings, asked)


def _is_unfinished(out: Path) -> bool:
    """Return whether a folder is empty, or has what an evaluation wrote before it was stopped."""
    return out.is_dir() and all(
        path.name == PREDICTIONS_FILE or path.name.startswith(".") for path in out.iterdir()
    )


def _check_values(options: argparse.Namespace) -> None:
    """Reject numbers, languages and devices that would fail or be misread later."""
    smallest = {"batch_size": 1, "limit": 0, "max_new_tokens": 1}
    for name, least in smallest.items():
        value = getattr(options, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name.replace('_', '-')} {value}, expected at least {least}")
    if len(set(options.languages or ())) < len(options.languages or ()):
        raise ConfigError(f"--languages {' '.join(options.languages)}: name each language once")
    if options.endpoint:
        return
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {options.device} can't be used: {reason}") from error


def choose_settings(options: argparse.Namespace) -> AskingConfig:
    """Return how to ask: as the options say, else as an exported cell records, else the default.

    Raises:
        ConfigError: If the record of the checkpoint or an option is invalid.
    """
    recorded = Path(options.model) / ASKING_FILE
    settings = load_config(AskingConfig, *([recorded] if recorded.is_file() else []))
    if options.style:
        settings = dataclasses.replace(settings, prompt_style=options.style)
    if options.max_new_tokens is not None:
        settings = dataclasses.replace(
            settings, max_new_tokens=options.max_new_tokens, max_new_tokens_by_kind={}
        )
    return settings


def _stored_folder(options: argparse.Namespace) -> Path:
    """Return the folder of the replies of an unfinished evaluation."""
    out: Path = options.out
    return out.with_name(f"{out.name}.asked")


def _warn_of_long_answers(
    items: Sequence[BenchmarkItem], settings: AskingConfig, model: HuggingFaceAnswerer
) -> None:
    """Name the questions that the model can't answer within the limits."""
    found = find_unreachable(items, settings, model.count_reply_tokens)
    if found:
        longest = max(one.num_tokens for one in found)
        _LOG.warning(
            "some questions have no accepted answer that fits into the limit of a reply: %s. "
            "Pass --max-new-tokens %d",
            *("; ".join(one.describe() for one in found), longest),
        )


def _evaluate_checkpoint(
    options: argparse.Namespace,
    items: Sequence[BenchmarkItem],
    settings: AskingConfig,
    asked: EvaluationOptions,
) -> EvaluationResult:
    """Evaluate a local checkpoint; its replies are stored slice by slice, as those of a grid."""
    check_model_settings(Path(options.model))
    model = HuggingFaceAnswerer(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        device=options.device,
        batch_size=options.batch_size,
        resizes_with_pil=_is_exported(options),
    )
    _warn_of_long_answers(items, settings, model)
    path = _stored_folder(options) / f"{_replies_key(options)}.jsonl"
    check_writable(path.parent)
    console = Console(stderr=True)
    columns = (TextColumn("questions"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None)
        answerer = CachedAnswerer(
            model,
            path,
            slice_size=options.batch_size * BATCHES_PER_SLICE,
            on_slice=partial(_show_progress, progress, task),
        )
        if answerer.num_stored:
            shown = escape(f"{answerer.num_stored} replies are already in {path}")
            progress.console.print(shown, highlight=False, soft_wrap=True)
        result = evaluate(answerer, items, asked, output_folder=options.out)
    path.unlink(missing_ok=True)
    if not any(path.parent.iterdir()):
        path.parent.rmdir()
    return result


def _show_progress(progress: Progress, task: TaskID, done: int, total: int) -> None:
    progress.update(task, completed=done, total=total)


def _is_exported(options: argparse.Namespace) -> bool:
    """Return whether the checkpoint is an exported cell, which records how it was evaluated."""
    return (Path(options.model) / ASKING_FILE).is_file()


def _replies_key(options: argparse.Namespace) -> str:
    """Return a digest of everything besides a question that determines a reply."""
    folder = Path(options.model)
    if folder.is_dir():
        files = hash_model_folder(folder)
        content = {str(Path(name).relative_to(folder)): files[name] for name in files}
    else:
        content = {"commit": hub_commit(options.model, options.revision)}
    settings = [options.dtype, options.device, options.batch_size, _is_exported(options)]
    versions = [torch.__version__, transformers.__version__]
    return fingerprint([content, settings, versions])[:_KEY_LENGTH]


def _evaluate_endpoint(
    options: argparse.Namespace, items: Sequence[BenchmarkItem], asked: EvaluationOptions
) -> EvaluationResult:
    """Evaluate a served model; the endpoint stores every reply, because it may cost money."""
    config = EndpointConfig(
        url=options.endpoint, model=options.model, key_variable=options.key_variable
    )
    folder = _stored_folder(options)
    check_writable(folder)
    answerer = EndpointAnswerer(Endpoint(config, folder), num_workers=options.batch_size)
    return evaluate(answerer, items, asked, output_folder=options.out)

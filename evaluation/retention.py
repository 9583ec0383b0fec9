"""Scores of the language model without images, to measure catastrophic forgetting.

Tasks are those of EleutherAI's lm-evaluation-harness (eus_proficiency, belebele_eus_Latn ...),
scored by its own code, and `text:SOURCE`, the bits per byte of a text source of this project.
"""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import to_plain
from core.errors import ConfigError, unknown_name
from core.io.files import atomic_write_text
from core.io.jsonl import append_jsonl, recover_jsonl
from core.io.reading import reading
from core.precision import EvaluationWeights
from core.process.log import get_logger
from core.samples import Role
from datamodules.shards.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_LOG = get_logger("retention")
RETENTION_FILE = "retention.json"
ITEMS_FILE = "retention_items.json"
TEXT_PREFIX = "text:"
_BITS_PER_BYTE = "bits_per_byte"
_METRICS = ("acc", "exact_match", _BITS_PER_BYTE)
"""The first of these metrics that a task provides is reported."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """Scoring of the language model without images."""

    tasks: list[str] = dataclasses.field(default_factory=list)
    """Task names of lm-eval, or text:SOURCE for bits per byte; an empty list disables scoring."""
    limit: int = 0
    """Maximum number of documents per task; 0 for all."""
    batch_size: int = 16
    """Number of documents per batch."""
    weights: EvaluationWeights = EvaluationWeights.FLOAT32
    """Type of the weights."""

    def __post_init__(self) -> None:
        """Check the ranges of the numbers."""
        if self.limit < 0 or self.batch_size < 1:
            raise ConfigError(
                f"retention.limit={self.limit}, retention.batch_size={self.batch_size}; expected "
                "limit >= 0 and batch_size >= 1"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskItems:
    """Values of one model on the documents of one task, in the order of the harness."""

    metric: str
    values: tuple[float, ...]
    """Accuracy or bits per byte of every document; empty if the harness reports none."""
    weights: tuple[float, ...]
    """Weight of every document in the score of the task: its bytes for bits per byte, else 1."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """Score of one model on one task."""

    metric: str
    value: float
    """The value as reported by the harness; accuracies are in 0..1."""
    stderr: float | None
    """Standard error as reported by the harness; None if it reports none."""
    n: int
    num_fewshot: int
    num_truncated: int
    """Prompts that are longer than the model's context, of which the harness keeps the end."""
    items: TaskItems
    """The single documents, for paired comparisons."""


class ScoreCache:
    """Cache of scores on disk, so that a resumed run scores only the remaining tasks."""

    def __init__(self, path: Path, on_task: Callable[[int, int], None]) -> None:
        """Load the stored scores, ignoring a partially written last line.

        Args:
            path: JSON lines file for one model's scores; created if it does not exist.
            on_task: Called after every task with the number of tasks scored and the total. An
                exception that it raises stops the run; the scores up to then stay stored.

        Raises:
            DataError: If the file is damaged.
        """
        self._path, self._on_task = path, on_task
        fix = "delete the file to score its tasks again"
        self.scores: dict[str, TaskScore] = dict(recover_jsonl(path, _parse_stored_score, fix=fix))

    def store(self, task: str, score: TaskScore, number: int, total: int) -> None:
        """Store the score of a task."""
        append_jsonl(self._path, [{"task": task, "score": to_plain(score)}])
        self._on_task(number, total)


def _parse_stored_score(raw: dict[str, Any]) -> tuple[str, TaskScore]:
    score = raw["score"]
    return raw["task"], TaskScore(**{**score, "items": _parse_items(score["items"])})


def _parse_items(raw: Mapping[str, Any]) -> TaskItems:
    values, weights = (tuple(map(float, raw[name])) for name in ("values", "weights"))
    return TaskItems(metric=str(raw["metric"]), values=values, weights=weights)


def run_retention(
    language_model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    settings: RetentionConfig,
    *,
    texts: Mapping[str, str],
    folder: Path,
    cache: ScoreCache | None = None,
) -> dict[str, TaskScore]:
    """Score a language model on all tasks.

    Args:
        language_model: The language model, in evaluation mode.
        tokenizer: The tokenizer of the language model.
        settings: The tasks and how to score them.
        texts: Maps every task `text:SOURCE` to the manifest of its source.
        folder: Folder for files that the harness reads.
        cache: Scores of an interrupted run, which are not computed again.

    Raises:
        ConfigError: If the harness is not installed, or a task does not exist.
    """
    try:
        from lm_eval import simple_evaluate  # takes seconds to import, and most runs do not need it
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f"evaluate.retention needs lm-eval ({error}); run pip install '.[harness]' or remove "
            "its tasks"
        ) from error
    tasks = settings.tasks
    known = TaskManager(include_defaults=any(task not in texts for task in tasks))
    for task in tasks:
        if not task.startswith(TEXT_PREFIX) and task not in known.all_tasks:
            raise ConfigError(unknown_name("task of lm-eval", task, known.all_tasks))
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    harness = HFLM(pretrained=language_model, tokenizer=tokenizer, batch_size=settings.batch_size)
    truncated = _TruncatedPrompts(harness)
    scores = dict(cache.scores) if cache is not None else {}
    for number, task in enumerate(tasks, 1):
        if task not in scores:
            truncated.num_prompts = 0
            results: Any = simple_evaluate(
                model=harness,
                tasks=[_define_text_task(task, texts[task], folder) if task in texts else task],
                limit=settings.limit or None,
                task_manager=known,
                bootstrap_iters=0,
                log_samples=True,
                verbosity="WARNING",
            )
            score = _parse_score(results, _harness_name(task), truncated.num_prompts)
            scores[task] = score
            if score.num_truncated:
                _LOG.warning(
                    "%s: %d prompts are longer than the context of the model (%d tokens); only "
                    "their ends were scored",
                    *(task, score.num_truncated, harness.max_length),
                )
            if cache is not None:
                cache.store(task, score, number, len(tasks))
    return {task: scores[task] for task in tasks}


def harness_version() -> str:
    """Return the version of the installed lm-eval; empty if it is not installed."""
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return ""


def save_retention(scores: Mapping[str, TaskScore], folder: Path) -> None:
    """Write retention.json and retention_items.json to a folder."""
    content = {task: to_plain(score) for task, score in scores.items()}
    items = {task: score.pop("items") for task, score in content.items()}
    for name, file in ((RETENTION_FILE, content), (ITEMS_FILE, items)):
        text = json.dumps(file, indent=1 if name == RETENTION_FILE else None, allow_nan=False)
        atomic_write_text(folder / name, text + "\n")


def read_items(folder: Path) -> dict[str, TaskItems]:
    """Read the items of all tasks that `save_retention` has written; empty without the file."""
    path = folder / ITEMS_FILE
    if not path.is_file():
        return {}
    with reading(path, fix="delete the result folder to run the stage again"):
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {task: _parse_items(items) for task, items in raw.items()}


def _define_text_task(task: str, manifest: str, folder: Path) -> dict[str, Any]:
    """Write the texts of a source to a file and define a harness task over it."""
    source = Source(Path(manifest))
    lines = []
    for number in range(len(source)):
        turns = source.read(number, with_image=False).turns
        text = "\n".join(turn.content for turn in turns if turn.role is Role.TEXT)
        if not text:
            raise ConfigError(
                f"evaluate.retention: source '{source.name}' has no running text; use a text source"
            )
        lines.append(json.dumps({"text": text}, ensure_ascii=False))
    path = folder / f"{_harness_name(task)}.jsonl"
    atomic_write_text(path, "\n".join(lines) + "\n")
    return {
        "task": _harness_name(task),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }


def _harness_name(task: str) -> str:
    return task.replace(":", "_")


class _TruncatedPrompts:
    """Counts the prompts that the harness cuts on the left because the model can't read them."""

    def __init__(self, harness: Any) -> None:
        """Watch a harness model."""
        self.num_prompts = 0
        self._harness = harness
        self._score, self._encode = harness._loglikelihood_tokens, harness.tok_batch_encode
        harness._loglikelihood_tokens, harness.tok_batch_encode = self._scored, self._encoded

    def _scored(self, requests: Sequence[Any], *args: Any, **options: Any) -> Any:
        most = self._harness.max_length + 1  # the last token is only predicted
        self.num_prompts += sum(len(start) + len(end) > most for _, start, end in requests)
        return self._score(requests, *args, **options)

    def _encoded(self, texts: Sequence[str], *args: Any, **options: Any) -> Any:
        if most := options.get("left_truncate_len"):
            lengths = map(len, self._harness.tokenizer(list(texts))["input_ids"])
            self.num_prompts += sum(length > most for length in lengths)
        return self._encode(texts, *args, **options)


def _parse_score(results: Mapping[str, Any], task: str, num_truncated: int) -> TaskScore:
    found = results["results"][task]
    for metric in _METRICS:
        if (value := found.get(f"{metric},none")) is not None:
            stderr = found.get(f"{metric}_stderr,none")
            return TaskScore(
                metric=metric,
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, float) else None,
                n=_count_documents(results, task),
                num_fewshot=int(results["n-shot"].get(task, 0)),
                num_truncated=num_truncated,
                items=_read_samples(results, task, metric),
            )
    raise ConfigError(
        f"task '{task}' of lm-eval has none of the metrics {', '.join(_METRICS)}; remove it"
    )


def _count_documents(results: Mapping[str, Any], task: str) -> int:
    """Return the number of documents of a task, or of all tasks of a group (INCLUDE, MMLU)."""
    if parts := results["group_subtasks"].get(task):
        return sum(_count_documents(results, part) for part in parts)
    return int(results["n-samples"][task]["effective"])


def _read_samples(results: Mapping[str, Any], task: str, metric: str) -> TaskItems:
    """Return the values of the documents; groups of tasks have none."""
    samples = results["samples"].get(task, [])
    values = [s[metric] for s in samples if s["filter"] == "none" and metric in s]
    if metric != _BITS_PER_BYTE:
        numbers = tuple(map(float, values))
        return TaskItems(metric=metric, values=numbers, weights=(1.0,) * len(numbers))
    return TaskItems(
        metric=metric,
        values=tuple(-nats / (math.log(2) * num_bytes) for nats, num_bytes in values),
        weights=tuple(float(num_bytes) for _, num_bytes in values),
    )

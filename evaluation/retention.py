"""What the language model still knows without images: lm-evaluation-harness on its own.

Training on images can cost what the model knew before (catastrophic forgetting). Tasks are those
of EleutherAI's harness by name (eus_proficiency, belebele_eus_Latn ...), scored by its own code,
and `text:SOURCE`, bits per byte of a text source of this project.
"""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import to_plain
from core.errors import ConfigError, unknown_name
from core.io.files import atomic_write_text
from core.io.jsonl import append_jsonl, recover_jsonl
from core.samples import Role
from datamodules.shards.source import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FILE_NAME = "retention.json"
TEXT_PREFIX = "text:"
_METRICS = ("acc", "exact_match", "bits_per_byte")
"""The first of these that a task has is shown."""
_LESS_IS_BETTER = ("bits_per_byte",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetentionConfig:
    """What the language model still knows without images."""

    tasks: list[str] = dataclasses.field(default_factory=list)
    """Tasks of lm-eval by name, or text:SOURCE for bits per byte; none switches it off."""
    limit: int = 0
    """Most documents per task; 0 = all."""
    batch_size: int = 16
    """Documents at once."""

    def __post_init__(self) -> None:
        """Check the numbers that have no type to protect them."""
        if self.limit < 0 or self.batch_size < 1:
            raise ConfigError(
                f"retention.limit={self.limit} and batch_size={self.batch_size}; expected 0 or "
                "more, and 1 or more"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """One task of one model."""

    metric: str
    value: float
    """A share for accuracies."""
    stderr: float | None
    """Of the harness; None where it gives none."""
    n: int
    num_fewshot: int

    @property
    def is_less_better(self) -> bool:
        """Whether a smaller value is the better one."""
        return self.metric in _LESS_IS_BETTER


class ScoreCache:
    """Scores that outlive an interruption: a task is scored once."""

    def __init__(self, path: Path, on_task: Callable[[int, int], None]) -> None:
        """Read what was kept.

        Args:
            path: JSON lines of one model's scores; made if it is missing.
            on_task: called after every task with the number of it and of all; what it raises
                stops, with everything up to there kept.

        Raises:
            DataError: the file is damaged.
        """
        self._path, self._on_task = path, on_task
        fix = "delete the file to score its tasks again"
        self.scores: dict[str, TaskScore] = dict(recover_jsonl(path, _parse_stored_score, fix=fix))

    def store(self, task: str, score: TaskScore, number: int, total: int) -> None:
        """Write a score down."""
        append_jsonl(self._path, [{"task": task, "score": to_plain(score)}])
        self._on_task(number, total)


def _parse_stored_score(raw: dict[str, Any]) -> tuple[str, TaskScore]:
    return raw["task"], TaskScore(**raw["score"])


def run_retention(
    language_model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    settings: RetentionConfig,
    *,
    texts: Mapping[str, str],
    folder: Path,
    cache: ScoreCache | None = None,
) -> dict[str, TaskScore]:
    """Score a language model, task by task.

    Args:
        language_model: in evaluation mode; used as it is.
        tokenizer: its tokenizer.
        settings: which tasks, and how.
        texts: manifests of the tasks `text:SOURCE`.
        folder: for files that the harness reads.
        cache: tasks that were scored before a stop; these are not scored again.

    Raises:
        ConfigError: the harness is not installed, or has no such task.
    """
    try:
        from lm_eval import simple_evaluate  # seconds to import, and most runs need none of it
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ConfigError(
            f"evaluate.retention needs lm-eval ({error}); pip install '.[harness]', or leave it out"
        ) from error
    tasks = settings.tasks
    known = TaskManager(include_defaults=any(task not in texts for task in tasks))
    for task in tasks:
        if not task.startswith(TEXT_PREFIX) and task not in known.all_tasks:
            raise ConfigError(unknown_name("task of lm-eval", task, known.all_tasks))
    logging.getLogger("lm_eval").setLevel(logging.WARNING)
    harness = HFLM(pretrained=language_model, tokenizer=tokenizer, batch_size=settings.batch_size)
    scores = dict(cache.scores) if cache is not None else {}
    for number, task in enumerate(tasks, 1):
        if task not in scores:
            results: Any = simple_evaluate(
                model=harness,
                tasks=[_text_task(task, texts[task], folder) if task in texts else task],
                limit=settings.limit or None,
                task_manager=known,
                bootstrap_iters=0,
                log_samples=False,
                verbosity="WARNING",
            )
            scores[task] = _score(results, _name(task))
            if cache is not None:
                cache.store(task, scores[task], number, len(tasks))
    return {task: scores[task] for task in tasks}


def save_retention(scores: Mapping[str, TaskScore], folder: Path) -> None:
    """Write retention.json."""
    content = {task: to_plain(score) for task, score in scores.items()}
    text = json.dumps(content, indent=1, allow_nan=False)
    atomic_write_text(folder / FILE_NAME, text + "\n")


def _text_task(task: str, manifest: str, folder: Path) -> dict[str, Any]:
    """A task of the harness over the running text of a source."""
    source = Source(Path(manifest))
    lines = []
    for number in range(len(source)):
        turns = source.read(number, with_image=False).turns
        text = "\n".join(turn.content for turn in turns if turn.role is Role.TEXT)
        if not text:
            raise ConfigError(f"evaluate.retention: source '{source.name}' holds no running text")
        lines.append(json.dumps({"text": text}, ensure_ascii=False))
    path = folder / f"{_name(task)}.jsonl"
    atomic_write_text(path, "\n".join(lines) + "\n")
    return {
        "task": _name(task),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }


def _name(task: str) -> str:
    return task.replace(":", "_")


def _score(results: Mapping[str, Any], task: str) -> TaskScore:
    found = results["results"][task]
    for metric in _METRICS:
        if (value := found.get(f"{metric},none")) is not None:
            stderr = found.get(f"{metric}_stderr,none")
            return TaskScore(
                metric=metric,
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, float) else None,
                n=int(results["n-samples"][task]["effective"]),
                num_fewshot=int(results["n-shot"].get(task, 0)),
            )
    raise ConfigError(f"task '{task}' of lm-eval has none of the metrics {', '.join(_METRICS)}")

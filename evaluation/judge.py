"""Command that compares open answers with a language model as judge: `python -m evaluation.judge`.

The judge chooses one of the five labels of WildVision-Bench. Every pair is judged in both orders,
because judges prefer the answer that they read first. If a reply has no label, the judge is asked
once more. A second reply without a label counts as unreadable, never as a tie.
"""

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from core.errors import ConfigError
from core.io.endpoint import Endpoint, EndpointConfig, image_part
from core.io.files import atomic_write_text
from core.process.command import catch_user_errors
from evaluation.benchmarks.images import ImageLookup, open_images
from evaluation.people.tasks import Task, compare_tasks
from evaluation.statistics.resampling import bootstrap_means

REWARDS = {"A>>B": 1.0, "A>B": 0.5, "A=B": 0.0, "B>A": -0.5, "B>>A": -1.0}
_LABEL = re.compile(r"\[\[(A>>B|A>B|A=B|B>A|B>>A)\]\]")
_STRONG_WEIGHT = 3
"""Weight of a strong preference in the Elo difference, as in WildVision-Bench."""
_MAX_TOKENS = 1024
_ELO_SCALE, _PSEUDO_COUNT = 400.0, 0.5
SYSTEM = (
    "You compare two assistants' answers to a question about an image. Judge what is true of the "
    "image, how helpful the answer is, and whether it is in the language of the question. Give "
    "your reasons in a few sentences and end with one of [[A>>B]], [[A>B]], [[A=B]], [[B>A]], "
    "[[B>>A]], where >> means much better. Which answer comes first means nothing, nor does length."
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeVerdict:
    """The judge's verdict on one question in one order."""

    task_id: str
    image_key: str
    first: str
    """Name of the system shown as A."""
    label: str
    """One of the five labels; empty if the reply has none."""
    reply: str

    def reward(self, system: str) -> float | None:
        """Return the reward of a system in -1..1, or None if the verdict is unreadable."""
        if not self.label:
            return None
        value = REWARDS[self.label]
        return value if self.first == system else -value


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeReport:
    """Result of judging `first` against `second`."""

    first: str
    second: str
    num_questions: int
    num_unreadable: int
    num_inconsistent: int
    """Questions whose two orders prefer different systems."""
    reward: float
    """Mean reward of `first` in -100..100, as in WildVision-Bench."""
    reward_low: float
    reward_high: float
    win_rate: float
    """Percentage of questions with a positive reward; ties are not wins."""
    elo: float
    """Bradley-Terry Elo difference, with strong preferences counted three times."""
    first_position: float
    """Percentage of decided verdicts for the system shown first; an unbiased judge has 50 %."""


def judge_pair(endpoint: Endpoint, task: Task, image: bytes | None) -> list[JudgeVerdict]:
    """Judge one question in both orders."""
    names = sorted(task.content)
    verdicts = []
    for first, second in (names, names[::-1]):
        messages = _build_messages(task, first, second, image)
        reply = endpoint.complete(messages, max_tokens=_MAX_TOKENS)
        label = read_label(reply)
        if not label:
            again = [
                *messages,
                {"role": "assistant", "content": reply or "-"},
                {"role": "user", "content": "End with one of the five labels, and nothing else."},
            ]
            reply = endpoint.complete(again, max_tokens=_MAX_TOKENS)
            label = read_label(reply)
        verdicts.append(
            JudgeVerdict(
                task_id=task.task_id,
                image_key=task.image_key,
                first=first,
                label=label,
                reply=reply,
            )
        )
    return verdicts


def read_label(reply: str) -> str:
    """Return the last label of a reply, or an empty string if it has none."""
    labels = _LABEL.findall(reply)
    return str(labels[-1]) if labels else ""


def summarize(
    verdicts: Sequence[JudgeVerdict], names: tuple[str, str], *, seed: int = 0
) -> JudgeReport:
    """Summarize all verdicts.

    Questions without a readable verdict are excluded from the scores, and counted.

    Args:
        verdicts: Verdicts on any number of questions, in both orders.
        names: Names of the two systems; rewards are those of the first.
        seed: Seed of the bootstrap.

    Raises:
        ConfigError: If no verdict is readable.
    """
    by_task: dict[str, list[JudgeVerdict]] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict.task_id, []).append(verdict)
    rewards: dict[str, list[float]] = {
        task: [r for verdict in pair if (r := verdict.reward(names[0])) is not None]
        for task, pair in by_task.items()
    }
    readable = {task: values for task, values in rewards.items() if values}
    if not readable:
        raise ConfigError("no verdict of the judge is readable; see verdicts.jsonl")
    means = np.array([float(np.mean(values)) for values in readable.values()])
    clusters = [by_task[task][0].image_key or task for task in readable]
    resampled = bootstrap_means(means, clusters, seed=seed, names=("judge",))
    low, high = (100 * float(x) for x in np.quantile(resampled, [0.025, 0.975]))
    every = [r for values in readable.values() for r in values]
    wins, losses = (
        sum((_STRONG_WEIGHT if abs(r) == 1 else 1) for r in every if r * sign > 0) + ties / 2
        for sign, ties in ((1, every.count(0.0)), (-1, every.count(0.0)))
    )
    decided = [v for v in verdicts if v.label not in ("", "A=B")]
    return JudgeReport(
        first=names[0],
        second=names[1],
        num_questions=len(by_task),
        num_unreadable=sum(not verdict.label for verdict in verdicts),
        num_inconsistent=sum(
            len(values) == len(names) and values[0] * values[1] < 0 for values in rewards.values()
        ),
        reward=100 * float(means.mean()),
        reward_low=low,
        reward_high=high,
        win_rate=100 * float((means > 0).mean()),
        elo=_ELO_SCALE * math.log10((wins + _PSEUDO_COUNT) / (losses + _PSEUDO_COUNT)),
        first_position=100 * sum(v.label[0] == "A" for v in decided) / max(1, len(decided)),
    )


def _build_messages(
    task: Task, first: str, second: str, image: bytes | None
) -> list[dict[str, Any]]:
    text = (
        f"Question:\n{task.question}\n\nAnswer A:\n{task.content[first]}\n\n"
        f"Answer B:\n{task.content[second]}"
    )
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        content.insert(0, image_part(image))
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.judge",
        description="Compare the open answers of two systems with a language model as judge.",
        epilog="Questions, answers and images are sent to --endpoint only. Every pair is judged in "
        "both orders. Rerun the command to resume an interrupted run.",
    )
    add = parser.add_argument
    add(
        "--pairs",
        nargs=2,
        required=True,
        metavar="NAME=PREDICTIONS",
        help="names and predictions.parquet of the two systems",
    )
    add(
        "--images",
        type=Path,
        metavar="MANIFEST",
        help="manifest of the images (default: judge without images)",
    )
    add("--language", default="eu", help="language of the questions (default: eu)")
    add(
        "--most",
        type=int,
        default=0,
        help="judge a random sample of this size (default: all questions)",
    )
    add("--endpoint", required=True, help="OpenAI-compatible URL, such as http://127.0.0.1:8000/v1")
    add("--model", required=True, help="model name of the judge at the endpoint")
    add(
        "--key-variable",
        default="OPENAI_API_KEY",
        help="environment variable that holds the API key (default: OPENAI_API_KEY)",
    )
    add("--price-in", type=float, default=0.0, help="price per million input tokens")
    add("--price-out", type=float, default=0.0, help="price per million output tokens")
    add("--out", type=Path, required=True, help="output folder for verdicts, report and cache")
    return parser


def run(options: argparse.Namespace, console: Console) -> JudgeReport:
    """Judge all pairs and write verdicts.jsonl and report.json.

    An interrupted run resumes from the cache of the endpoint.

    Raises:
        ConfigError: If an option is invalid, or no verdict is readable.
        DataError: If the predictions can't be compared.
        EndpointError: If the endpoint refuses a request; earlier replies stay cached.
    """
    (first, _, first_path), (second, _, second_path) = (
        pair.partition("=") for pair in options.pairs
    )
    tasks = compare_tasks(
        Path(first_path),
        Path(second_path),
        (first, second),
        language=options.language,
        most=options.most,
    )
    config = EndpointConfig(
        url=options.endpoint,
        model=options.model,
        key_variable=options.key_variable,
        price_in=options.price_in,
        price_out=options.price_out,
    )
    endpoint = Endpoint(config, options.out / "cache")
    images: ImageLookup = open_images(options.images) if options.images else lambda _key: None
    verdicts: list[JudgeVerdict] = []
    for task in track(tasks, description="judging", console=console, transient=True):
        verdicts += judge_pair(endpoint, task, images(task.image_key))
    lines = [json.dumps(dataclasses.asdict(v), ensure_ascii=False) for v in verdicts]
    atomic_write_text(options.out / "verdicts.jsonl", "\n".join(lines) + "\n")
    summary = summarize(verdicts, (first, second))
    content = {
        "report": dataclasses.asdict(summary),
        "bill": dataclasses.asdict(endpoint.bill),
        "judge": {"url": config.url, "model": config.model},
    }
    atomic_write_text(options.out / "report.json", json.dumps(content, indent=1) + "\n")
    console.print_json(json.dumps(content))
    return summary


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    console = Console()
    run(build_parser().parse_args(arguments), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

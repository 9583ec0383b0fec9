"""A language model as judge of open answers: `python -m evaluation.judge`.

As WildVision-Bench asks (five labels), but in both orders: a judge prefers what it reads first. A
reply without a label is asked for once more, then counted as unreadable, never as a tie.
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
from evaluation.statistics.intervals import bootstrap_means

REWARDS = {"A>>B": 1.0, "A>B": 0.5, "A=B": 0.0, "B>A": -0.5, "B>>A": -1.0}
_LABEL = re.compile(r"\[\[(A>>B|A>B|A=B|B>A|B>>A)\]\]")
_STRONG = 3
"""Weight of a strong preference in the strengths, as WildVision-Bench's."""
_MAX_TOKENS = 1024
_ELO, _EDGE = 400.0, 0.5
SYSTEM = (
    "You compare two assistants' answers to a question about an image. Judge what is true of the "
    "image, how helpful the answer is, and whether it is in the language of the question. Give "
    "your reasons in a few sentences and end with one of [[A>>B]], [[A>B]], [[A=B]], [[B>A]], "
    "[[B>>A]], where >> means much better. Which answer comes first means nothing, nor does length."
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One question in one order."""

    task_id: str
    image_key: str
    first: str
    """System shown as A."""
    label: str
    """Empty where none could be read."""
    reply: str

    def reward(self, system: str) -> float | None:
        """For a system, -1 .. 1; None where unreadable."""
        if not self.label:
            return None
        value = REWARDS[self.label]
        return value if self.first == system else -value


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeReport:
    """What the judge says of `first` against `second`."""

    first: str
    second: str
    num_questions: int
    num_unreadable: int
    num_inconsistent: int
    """Questions whose two orders prefer different systems."""
    reward: float
    """Mean of -100 .. 100, as WildVision-Bench's."""
    reward_low: float
    reward_high: float
    win_rate: float
    """Share of questions with a positive reward; ties are no wins."""
    elo: float
    """Bradley-Terry, strong preferences three times."""
    first_position: float
    """Share of decided verdicts for whoever was shown first; 50 % is fair."""


def judge_pair(endpoint: Endpoint, task: Task, image: bytes | None) -> list[Verdict]:
    """Both orders of one question."""
    names = sorted(task.content)
    verdicts = []
    for first, second in (names, names[::-1]):
        messages = _messages(task, first, second, image)
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
            Verdict(
                task_id=task.task_id,
                image_key=task.image_key,
                first=first,
                label=label,
                reply=reply,
            )
        )
    return verdicts


def read_label(reply: str) -> str:
    """The last label of a reply; empty without one."""
    found = _LABEL.findall(reply)
    return str(found[-1]) if found else ""


def report(verdicts: Sequence[Verdict], names: tuple[str, str], *, seed: int = 0) -> JudgeReport:
    """Of all verdicts; questions without a readable verdict are left out and counted.

    Raises:
        ConfigError: no verdict could be read.
    """
    by_task: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_task.setdefault(verdict.task_id, []).append(verdict)
    rewards: dict[str, list[float]] = {
        task: [r for verdict in pair if (r := verdict.reward(names[0])) is not None]
        for task, pair in by_task.items()
    }
    readable = {task: found for task, found in rewards.items() if found}
    if not readable:
        raise ConfigError("the judge gave no readable verdict; look at verdicts.jsonl")
    means = np.array([float(np.mean(found)) for found in readable.values()])
    clusters = [by_task[task][0].image_key or task for task in readable]
    resampled = bootstrap_means(means, clusters, seed=seed, names=("judge",))
    low, high = (100 * float(x) for x in np.quantile(resampled, [0.025, 0.975]))
    every = [r for found in readable.values() for r in found]
    wins, losses = (
        sum((_STRONG if abs(r) == 1 else 1) for r in every if r * sign > 0) + ties / 2
        for sign, ties in ((1, every.count(0.0)), (-1, every.count(0.0)))
    )
    decided = [v for v in verdicts if v.label not in ("", "A=B")]
    return JudgeReport(
        first=names[0],
        second=names[1],
        num_questions=len(by_task),
        num_unreadable=sum(not verdict.label for verdict in verdicts),
        num_inconsistent=sum(
            len(found) == len(names) and found[0] * found[1] < 0 for found in rewards.values()
        ),
        reward=100 * float(means.mean()),
        reward_low=low,
        reward_high=high,
        win_rate=100 * float((means > 0).mean()),
        elo=_ELO * math.log10((wins + _EDGE) / (losses + _EDGE)),
        first_position=100 * sum(v.label[0] == "A" for v in decided) / max(1, len(decided)),
    )


def _messages(task: Task, first: str, second: str, image: bytes | None) -> list[dict[str, Any]]:
    text = (
        f"Question:\n{task.question}\n\nAnswer A:\n{task.content[first]}\n\n"
        f"Answer B:\n{task.content[second]}"
    )
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if image is not None:
        content.insert(0, image_part(image))
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.judge",
        description="Have a language model compare the open answers of two systems, both orders.",
        epilog="Questions, answers and images are sent to --endpoint and nowhere else.",
    )
    add = parser.add_argument
    add("--pairs", nargs=2, required=True, metavar="NAME=PREDICTIONS", help="two systems")
    add("--images", type=Path, metavar="MANIFEST", help="where the images are")
    add("--language", default="eu", help="of the questions (default: eu)")
    add("--most", type=int, default=0, help="so many questions at most, drawn by chance")
    add("--endpoint", required=True, help="OpenAI-compatible address, as http://127.0.0.1:8000/v1")
    add("--model", required=True, help="name of the judge there")
    add("--key-variable", default="OPENAI_API_KEY", help="environment variable with the key")
    add("--price-in", type=float, default=0.0, help="money per million tokens read")
    add("--price-out", type=float, default=0.0, help="money per million tokens written")
    add("--out", type=Path, required=True, help="folder of verdicts, report and cache")
    return parser


def run(options: argparse.Namespace, console: Console) -> JudgeReport:
    """Judge all pairs, write verdicts.jsonl and report.json; continues where it was stopped.

    Raises:
        ConfigError: bad options.
        EndpointError: the endpoint refuses; what was answered is in the cache.
    """
    named = [pair.partition("=") for pair in options.pairs]
    (first, _, one), (second, _, other) = named
    tasks = compare_tasks(
        Path(one), Path(other), (first, second), language=options.language, most=options.most
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
    verdicts: list[Verdict] = []
    for task in track(tasks, description="judged", console=console, transient=True):
        verdicts += judge_pair(endpoint, task, images(task.image_key))
    lines = [json.dumps(dataclasses.asdict(v), ensure_ascii=False) for v in verdicts]
    atomic_write_text(options.out / "verdicts.jsonl", "\n".join(lines) + "\n")
    found = report(verdicts, (first, second))
    content = {"report": dataclasses.asdict(found), "bill": dataclasses.asdict(endpoint.bill),
               "judge": {"url": config.url, "model": config.model}}  # fmt: skip
    atomic_write_text(options.out / "report.json", json.dumps(content, indent=1) + "\n")
    console.print_json(json.dumps(content))
    return found


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Judge."""
    console = Console()
    run(build_parser().parse_args(arguments), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

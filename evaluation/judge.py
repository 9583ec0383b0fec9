"""Command that compares open answers with a language model as judge: `python -m evaluation.judge`.

The judge chooses one of the five labels of WildVision-Bench, by a prompt of this project
(`evaluation.judge_summary` lists what else differs). Every pair is judged in both orders,
because judges prefer the answer that they read first. If a reply has no label, the judge is asked
once more. A second reply without a label counts as unreadable, never as a tie. Equal replies are
ties: they are not sent to the judge, but they count.
"""

from core.process.command import catch_user_errors

import argparse
import dataclasses
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import DataError
from core.io.files import atomic_write_text, sole_writer
from core.process.loading import without_collection
from core.process.options import given_path, number_between, whole_number

if TYPE_CHECKING:
    from rich.console import Console

    from core.io.endpoint import Endpoint
    from evaluation.benchmarks.images import ImageLookup
    from evaluation.judge_summary import JudgeReport, JudgeVerdict
    from evaluation.people.tasks import Task

_EPILOG = """examples:
  python -m evaluation.judge --language eu --images data/embedded/benchmark_test.manifest.json \\
      --pairs general=A/result/predictions.parquet adapted=B/result/predictions.parquet \\
      --endpoint http://127.0.0.1:8000/v1 --model some-judge --out judged --save judged/preferences

Questions, answers and images are sent to --endpoint only. Every pair is judged in both orders.
Rerun the command to resume an interrupted run.
"""
_LABEL = re.compile(r"\[\[(A>>B|A>B|A=B|B>A|B>>A)\]\]")
DEFAULT_MAX_TOKENS = 1024
SYSTEM = (
    "You compare two assistants' answers to a question about an image. Judge what is true of the "
    "image, how helpful the answer is, and whether it is in the language of the question. Give "
    "your reasons in a few sentences and end with one of [[A>>B]], [[A>B]], [[A=B]], [[B>A]], "
    "[[B>>A]], where >> means much better. Which answer comes first means nothing, nor does length."
)


def judge_pair(
    endpoint: "Endpoint",
    task: "Task",
    image: bytes | None,
    *,
    max_tokens: int = DEFAULT_MAX_TOKENS,
) -> "list[JudgeVerdict]":
    """Judge one question in both orders, with replies of at most `max_tokens` tokens."""
    from evaluation.judge_summary import JudgeVerdict

    names = sorted(task.content)
    verdicts = []
    for first, second in (names, names[::-1]):
        messages = _build_messages(task, first, second, image)
        reply = endpoint.completion(messages, max_tokens=max_tokens)
        label = read_label(reply.text)
        if not label:
            again = [
                *messages,
                {"role": "assistant", "content": reply.text or "-"},
                {"role": "user", "content": "End with one of the five labels, and nothing else."},
            ]
            reply = endpoint.completion(again, max_tokens=max_tokens)
            label = read_label(reply.text)
        verdicts.append(
            JudgeVerdict(
                task_id=task.task_id,
                image_key=task.image_key,
                first=first,
                label=label,
                reply=reply.text,
                is_truncated=reply.is_truncated,
            )
        )
    return verdicts


def read_label(reply: str) -> str:
    """Return the last label of a reply, or an empty string if it has none."""
    labels = _LABEL.findall(reply)
    return str(labels[-1]) if labels else ""


def _build_messages(
    task: "Task", first: str, second: str, image: bytes | None
) -> list[dict[str, Any]]:
    from core.io.endpoint import image_part

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
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        type=given_path,
        metavar="MANIFEST",
        help="manifest of the images (default: judge without images)",
    )
    add(
        "--language",
        nargs="+",
        default=[],
        metavar="CODE",
        help="languages of the questions, each reported on its own (default: the target language "
        "of the systems)",
    )
    add(
        "--dataset",
        nargs="+",
        default=[],
        help="benchmarks of the questions, such as wildvision (default: all)",
    )
    add(
        "--most",
        type=whole_number(0),
        default=0,
        help="judge a random sample of this size per language (default: all questions)",
    )
    add("--endpoint", required=True, help="OpenAI-compatible URL, such as http://127.0.0.1:8000/v1")
    add("--model", required=True, help="model name of the judge at the endpoint")
    add(
        "--key-variable",
        default="OPENAI_API_KEY",
        help="environment variable that holds the API key (default: OPENAI_API_KEY)",
    )
    add(
        "--max-tokens",
        type=whole_number(1),
        default=DEFAULT_MAX_TOKENS,
        metavar="N",
        help="maximum number of tokens of a reply; with the question it must fit into the context "
        "of the server (default: %(default)s)",
    )
    price = number_between(0, math.inf)
    add("--price-in", type=price, default=0.0, help="price per million input tokens")
    add("--price-out", type=price, default=0.0, help="price per million output tokens")
    add(
        "--out", type=given_path, required=True, help="output folder for verdicts, report and cache"
    )
    add(
        "--save",
        type=given_path,
        metavar="FOLDER",
        help="store the preferences per question, as in mlruns/grids/GRID/preferences",
    )
    return parser


def run(options: argparse.Namespace, console: "Console") -> "list[JudgeReport]":
    """Judge all pairs and write verdicts.jsonl, report.json and, with --save, the preferences.

    An interrupted run resumes from the cache of the endpoint.

    Raises:
        ConfigError: If an option is invalid, or no verdict is readable.
        DataError: If the predictions can't be compared.
        EndpointError: If the endpoint refuses a request; earlier replies stay cached.
    """
    with without_collection():
        from rich.markup import escape
        from rich.progress import track

        from core.io.endpoint import Endpoint, EndpointConfig
        from evaluation.benchmarks.images import open_images
        from evaluation.judge_summary import PROTOCOL, judge_record, summarise
        from evaluation.people.comparison import compare_systems
        from evaluation.people.preferences import save_preferences

    (first, _, first_path), (second, _, second_path) = (
        pair.partition("=") for pair in options.pairs
    )
    comparison, tasks = compare_systems(
        (Path(first_path), Path(second_path)),
        (first, second),
        languages=options.language,
        datasets=options.dataset,
        most=options.most,
    )
    if not tasks:
        raise DataError(
            f"all {len(comparison.questions)} replies of the two systems are equal; there is "
            "nothing to judge"
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
        verdicts += judge_pair(
            endpoint, task, images(task.image_key), max_tokens=options.max_tokens
        )
    lines = [json.dumps(dataclasses.asdict(v), ensure_ascii=False) for v in verdicts]
    atomic_write_text(options.out / "verdicts.jsonl", "\n".join(lines) + "\n")
    record = judge_record(verdicts, comparison, config.model)
    reports = summarise(verdicts, record)
    content = {
        "protocol": PROTOCOL,
        "reports": [dataclasses.asdict(report) for report in reports],
        "bill": dataclasses.asdict(endpoint.bill),
        "judge": {"url": config.url, "model": config.model},
    }
    atomic_write_text(options.out / "report.json", json.dumps(content, indent=1) + "\n")
    console.print_json(json.dumps(content))
    if num_truncated := sum(report.num_truncated for report in reports):
        console.print(
            f"[yellow]{num_truncated} of {len(verdicts)} replies of the judge reached its limit of "
            f"{options.max_tokens} tokens[/]; verdicts without a label are left out",
            highlight=False,
        )
    if options.save:
        path = save_preferences(options.save, record)
        console.print(f"Preferences written to {escape(str(path))}", highlight=False)
    return reports


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = build_parser().parse_args(arguments)
    from rich.console import Console

    console = Console()
    with sole_writer(options.out):
        run(options, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

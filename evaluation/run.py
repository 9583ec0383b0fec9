"""Command that evaluates LLaVA-style checkpoints: `python -m evaluation.run --model FOLDER ...`.

The grid evaluates its own cells. This command evaluates exported cells and third-party models on
the same benchmarks, with the same scores, baselines and intervals. Replies are stored while the
model is asked, so that the same command resumes an interrupted evaluation.
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from core.process.loading import without_collection
from core.process.options import given_path

if TYPE_CHECKING:
    from rich.console import Console

    from evaluation.runner import EvaluationResult

_EPILOG = """examples:
  python -m evaluation.run --model exports/share40 \\
      --benchmark data/embedded/benchmark_test.manifest.json --out results/share40
  python -m evaluation.run --model llava-hf/llava-1.5-7b-hf --revision main --dtype bfloat16 \\
      --device cuda --languages eu --benchmark data/embedded/benchmark_test.manifest.json \\
      --out results/llava
  vllm serve exports/share40 &    # or any other OpenAI-compatible server
  python -m evaluation.run --endpoint http://127.0.0.1:8000/v1 --model exports/share40 \\
      --batch-size 64 --benchmark data/embedded/benchmark_test.manifest.json --out results/vllm
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.run",
        description="Evaluate a LLaVA-style checkpoint on a benchmark.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="checkpoint folder, Hub name, or model name at --endpoint")
    add(
        "--endpoint",
        default="",
        metavar="URL",
        help="OpenAI-compatible address of a served model, to which questions and images are sent; "
        "replies are stored in OUT.asked, which later evaluations of the same model may share",
    )
    add(
        "--key-variable",
        default="OPENAI_API_KEY",
        help="environment variable that holds the API key of --endpoint (default: OPENAI_API_KEY)",
    )
    add(
        "--revision",
        default="",
        help="revision of a Hub checkpoint: a commit, or main for the latest",
    )
    add("--benchmark", type=given_path, required=True, help="benchmark manifest")
    add("--languages", nargs="+", help="languages to evaluate (default: all of the benchmark)")
    add(
        "--style",
        help="prompt style from languages/*/prompts.yaml: instructed asks as the authors of each "
        "benchmark do, bare is the question alone (default: as an exported cell was evaluated, "
        "otherwise instructed)",
    )
    add("--limit", type=int, default=0, metavar="N", help="evaluate the first N questions only")
    add(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum tokens per reply, for every kind of benchmark (default: as an exported cell "
        "was evaluated, otherwise 32, but 512 for open and 4096 for wild)",
    )
    add(
        "--batch-size",
        type=int,
        default=8,
        help="prompts per batch, or concurrent requests to --endpoint (default: 8)",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="data type of the weights (default: float32)",
    )
    add("--device", default="cpu", help="device, such as cpu or cuda (default: cpu)")
    add("--no-blind", action="store_true", help="skip the baseline with a blank image")
    add(
        "--out",
        type=given_path,
        required=True,
        help="output folder, which must be empty or not exist yet; replies are stored in "
        "OUT.asked, from which the same command resumes an interrupted evaluation",
    )
    return parser


def print_accuracies(console: "Console", result: "EvaluationResult") -> None:
    """Print the accuracies with intervals and baselines."""
    from rich.table import Table

    table = Table(title="Accuracy in percent")
    for name in ("metric", "value", "95 % interval", "n", "majority", "blank image"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, metric in result.metrics.items():
        if "/type/" in name or not name.endswith(("accuracy", "yes_no", "other", "number")):
            continue
        interval = "" if metric.ci_low is None else f"{metric.ci_low:.1f} .. {metric.ci_high:.1f}"
        baselines = (metric.majority, metric.blind)
        shown = ("" if value is None else f"{value:.1f}" for value in baselines)
        table.add_row(name, f"{metric.value:.1f}", interval, str(metric.n), *shown)
    console.print(table)


def print_truncated(console: "Console", result: "EvaluationResult") -> None:
    """Print the share of replies that reached the token limit, where there are any."""
    from rich.markup import escape

    for name, metric in result.metrics.items():
        *benchmark, kind, language = name.split("/")
        if kind == "truncated" and metric.value > 0:
            where = escape(" ".join([*benchmark, language]))
            console.print(
                f"[yellow]{metric.value:.1f} % of the replies in {where} reached the token "
                "limit[/] and may be wrong for that reason; see --max-new-tokens",
                highlight=False,
            )


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = build_parser().parse_args(arguments)
    with without_collection():
        from rich.console import Console
        from rich.markup import escape

        from evaluation.model_evaluation import evaluate_model

    console = Console()
    result = evaluate_model(options)
    print_accuracies(console, result)
    print_truncated(console, result)
    style = escape(result.options.prompt_style)
    console.print(f"Prompt style: {style}. Results: {escape(str(options.out))}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

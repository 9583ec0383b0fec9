"""Evaluate any LLaVA-class checkpoint: `python -m evaluation.run --model FOLDER --benchmark ...`.

Cells of this project are evaluated by their grid; this command is for exported ones and for
models of others, on the same benchmarks with the same scores, baselines and intervals.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.errors import ConfigError
from core.io.endpoint import Endpoint, EndpointConfig
from core.process.command import catch_user_errors
from evaluation.answerers.base import MAX_NEW_TOKENS, Answerer
from evaluation.answerers.endpoint import EndpointAnswerer
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.items import load_benchmark
from evaluation.benchmarks.prompting import BARE_STYLE
from evaluation.runner import EvaluationOptions, EvaluationResult, evaluate

_EPILOG = """examples:
  python -m evaluation.run --model exports/share40 \\
      --benchmark data/embedded/benchmark_test.manifest.json --out results/share40
  python -m evaluation.run --model llava-hf/llava-1.5-7b-hf --revision main --style instructed \\
      --dtype bfloat16 --device cuda --languages eu --benchmark data/paper/benchmarks.manifest.json
  vllm serve exports/share40 &    # or any other server with this interface
  python -m evaluation.run --endpoint http://127.0.0.1:8000/v1 --model exports/share40 \\
      --batch-size 64 --benchmark data/embedded/benchmark_test.manifest.json --out results/vllm
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.run",
        description="Ask a LLaVA-class checkpoint every question of a benchmark, and score it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", required=True, help="folder of a checkpoint, or its name (hub, --endpoint)")
    add(
        "--endpoint",
        default="",
        metavar="URL",
        help="ask a served model at this OpenAI-compatible address; questions and images go "
        "there. Replies are kept in OUT.asked, so that a stopped evaluation goes on",
    )
    add("--key-variable", default="OPENAI_API_KEY", help="environment variable with its key")
    add("--revision", default="", help="commit of a name on the hub, or (knowingly moving) main")
    add("--benchmark", type=Path, required=True, help="manifest of the benchmark")
    add("--languages", nargs="+", help="of those it has (default: all)")
    add(
        "--style",
        default=BARE_STYLE,
        help="prompt style of languages/*/prompts.yaml (default: bare)",
    )
    add("--limit", type=int, default=0, metavar="N", help="only the first N questions")
    add("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="longest answer (default: 32)")
    add("--batch-size", type=int, default=8, help="prompts at once (default: 8)")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    add("--device", default="cpu", help="cpu, cuda ...")
    add("--no-blind", action="store_true", help="don't also ask with a blank image")
    add("--out", type=Path, required=True, help="new folder for predictions and metrics")
    return parser


def run(options: argparse.Namespace) -> EvaluationResult:
    """Load, ask, score, write.

    Raises:
        ConfigError: a folder that exists, or a language, style or revision that doesn't.
        CheckpointError: a model that can't be loaded whole.
        EndpointError: a server that refuses.
    """
    if options.out.exists():
        raise ConfigError(f"{options.out} exists; name a new folder or remove it")
    items = load_benchmark(options.benchmark, languages=options.languages)
    items = items[: options.limit] if options.limit else items
    answerer: Answerer = _served(options) if options.endpoint else _loaded(options)
    settings = EvaluationOptions(prompt_style=options.style, blind=not options.no_blind)
    return evaluate(answerer, items, settings, output_folder=options.out)


def _loaded(options: argparse.Namespace) -> HuggingFaceAnswerer:
    return HuggingFaceAnswerer(
        options.model,
        revision=options.revision,
        dtype=options.dtype,
        device=options.device,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
    )


def _served(options: argparse.Namespace) -> EndpointAnswerer:
    config = EndpointConfig(
        url=options.endpoint, model=options.model, key_variable=options.key_variable
    )
    cache = options.out.with_name(options.out.name + ".asked")
    return EndpointAnswerer(
        Endpoint(config, cache),
        max_new_tokens=options.max_new_tokens,
        num_workers=options.batch_size,
    )


def show(console: Console, result: EvaluationResult) -> None:
    """Accuracies with intervals and baselines."""
    table = Table(title="percent")
    for name in ("metric", "value", "95 % interval", "n", "majority", "without image"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for name, metric in result.metrics.items():
        if "/type/" in name or not name.endswith(("accuracy", "yes_no", "other", "number")):
            continue
        interval = "" if metric.ci_low is None else f"{metric.ci_low:.1f} .. {metric.ci_high:.1f}"
        baselines = (metric.majority, metric.blind)
        shown = ("" if value is None else f"{value:.1f}" for value in baselines)
        table.add_row(name, f"{metric.value:.1f}", interval, str(metric.n), *shown)
    console.print(table)


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate."""
    console = Console()
    options = build_parser().parse_args(arguments)
    show(console, run(options))
    console.print(f"written: {escape(str(options.out))}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

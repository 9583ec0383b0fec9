"""Command line: prepare the data of a language. `python -m data_prep.prepare --help`."""

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from core.errors import ConfigError
from core.process.command import clear_errors
from data_prep.prepare import planning
from data_prep.prepare.finish import REPORT
from data_prep.prepare.recipe import RECIPES, load_recipe
from data_prep.prepare.work import WorkPlan

_POLL_S = 0.5
_EPILOG = """examples
  # what it would take, and nothing else
  python -m data_prep.prepare --language eu --recipe paper --dry-run
  # a small run from one end to the other
  python -m data_prep.prepare --language eu --recipe paper --limit 200
  # translated by a Marian-style model (pip install '.[prepare]')
  ct2-transformers-converter --model HiTZ/mt-hitz-en-eu --output_dir models/en-eu \\
      --copy_files source.spm target.spm
  python -m data_prep.prepare --language eu --recipe paper \\
      --set translate.backend=ctranslate2 translate.model=models/en-eu
  # by a language model behind any OpenAI-compatible address (vLLM, a provider)
  python -m data_prep.prepare --language cy --recipe paper --set translate.backend=endpoint \\
      translate.endpoint.url=http://127.0.0.1:8000/v1 translate.endpoint.model=NAME
  # another place for a source: a mirror, a file of yours
  ... --set 'cc3m.place=/data/cc3m/*.parquet'
A run that was stopped in any way goes on with the same command; nothing is fetched or translated
twice. Keys are read from the environment variable translate.endpoint.key_variable names.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    known = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.prepare",
        description="From published data to translated, checked shards that train.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--language", required=True, help="code of the language to add, as eu")
    add("--recipe", required=True, help=f"{known}, or a YAML file")
    add("--out", type=Path, help="folder (default: data/prepared/LANGUAGE)")
    add("--limit", type=int, default=0, metavar="N", help="only the first N rows of each source")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend", dest="overrides",
        help="change the recipe (translate.backend=...) or a source (cc3m.place=...)")  # fmt: skip
    add("--workers", type=int, default=2, help="tasks at a time (default: 2)")
    add("--dry-run", action="store_true", help="only say what it would take")
    add("--executor", choices=("local", "slurm"), default="local",
        help="slurm: job arrays by datatrove; needs --slurm partition=... time=...")  # fmt: skip
    add("--slurm", nargs="+", default=[], metavar="KEY=VALUE",
        help="of datatrove's SlurmPipelineExecutor: partition, time, cpus_per_task, "
        "mem_per_cpu_gb, env_command, venv_path, qos")  # fmt: skip
    return parser


def show_plan(console: Console, plan: WorkPlan) -> None:
    """The table of what is to be done."""
    table = Table(title=f"{plan.recipe} for '{plan.language}' into {plan.out}")
    for name in ("source", "rows", "tasks", "usable", "translated by", "tokens", "to fetch",
                 "hours", "money", "GB"):  # fmt: skip
        table.add_column(name, justify="left" if name in ("source", "translated by") else "right")
    total = [0.0, 0.0, 0.0]
    for source in plan.sources:
        found = planning.estimate(plan, source)
        total = [
            a + b for a, b in zip(total, (found.hours, found.money, found.gigabytes), strict=True)
        ]
        table.add_row(
            source.name, f"{found.num_rows:,}", f"{len(source.parts):,}", f"{found.usable:.0%}",
            found.by, f"{found.tokens:,.0f}", f"{found.downloads:,}", f"{found.hours:,.2f}",
            f"{found.money:,.2f}", f"{found.gigabytes:,.2f}",
        )  # fmt: skip
    table.add_row("all", "", "", "", "", "", "", *(f"{value:,.2f}" for value in total))
    console.print(table)
    speed = plan.config.translate.tokens_per_s
    console.print(
        f"Rows are counted; the rest is extrapolated from the first of each source, at an assumed "
        f"{speed:,.0f} tokens/s of translation and 50 images/s, for one task at a time.",
        highlight=False,
    )


def run_here(console: Console, plan: WorkPlan, workers: int) -> None:
    """All steps on this machine, with progress."""
    from data_prep.prepare.engine import Step, run_local

    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("{task.fields[told]}"), TimeElapsedColumn())  # fmt: skip
    rows = sum(source.num_rows for source in plan.sources)
    with Progress(*columns, console=console) as progress:
        for step in Step:
            is_wide = step in (Step.COLLECT, Step.PRODUCE)
            task = progress.add_task(step, total=rows if is_wide else 1, told="")
            with _Watch(
                plan, step, lambda done, told, t=task: progress.update(t, **_shown(done, told))
            ):
                run_local(plan, step, workers)
            progress.update(task, completed=rows if is_wide else 1)


def _shown(done: float | None, told: str) -> dict[str, Any]:
    return {"told": told} if done is None else {"completed": done, "told": told}


class _Watch:
    """Reads what tasks tell about themselves, while they run."""

    def __init__(self, plan: WorkPlan, step: Any, show: Any) -> None:
        self._folder, self._step, self._show = plan.work / "progress", step, show
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._begin = time.monotonic()
        self._before = self._sums().get("translated", 0.0)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            sums = self._sums()
            self._show(sums.get("items"), self._told(sums))

    def _sums(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        for path in self._folder.glob(f"{self._step}-*.json"):
            try:
                for name, value in json.loads(path.read_text(encoding="utf-8")).items():
                    sums[name] = sums.get(name, 0.0) + value
            except (OSError, ValueError):
                continue  # just being replaced
        return sums

    def _told(self, sums: dict[str, float]) -> str:
        if not sums.get("translated"):
            return ""
        rate = (sums["translated"] - self._before) / max(1e-9, time.monotonic() - self._begin)
        told = f"{sums['translated']:,.0f} texts translated, {rate:,.1f}/s"
        tokens = sums.get("tokens_in", 0.0) + sums.get("tokens_out", 0.0)
        if tokens:
            told += f", {tokens:,.0f} tokens"
        return told + (f", cost {sums['money']:,.2f}" if sums.get("money") else "")


def show_report(console: Console, plan: WorkPlan) -> None:
    """What went in, what came out, and why the rest did not."""
    report = json.loads((plan.out / REPORT).read_text(encoding="utf-8"))
    table = Table(title="What became of every row")
    for name in ("source", "step", "in", "out", "left out"):
        table.add_column(name, justify="right" if name in ("in", "out") else "left")
    for name, steps in report["sources"].items():
        for step, ledger in steps.items():
            reasons = "; ".join(f"{count:,} {why}" for why, count in ledger["dropped"].items())
            table.add_row(
                name, step, f"{ledger['num_in']:,}", f"{ledger['num_out']:,}", escape(reasons)
            )
    console.print(table)
    console.print(f"Examples of each reason: {plan.out / REPORT}", highlight=False, soft_wrap=True)
    console.print(f"Data card: {plan.out / 'README.md'}", highlight=False, soft_wrap=True)
    if any((plan.out / "validate").glob("*.jsonl")):
        console.print(
            f"For review (docs/guides/human-evaluation.md): {plan.out}/validate/NAME.jsonl",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Plan, do, report."""
    options = build_parser().parse_args(arguments)
    console = Console()
    out = options.out or Path("data/prepared") / options.language
    try:
        config, recipes = load_recipe(options.recipe, options.overrides)
        order = planning.Order(
            recipe=Path(options.recipe).stem, language=options.language, out=out,
            limit=options.limit,
        )  # fmt: skip
        plan = planning.make_plan(order, config, recipes, only_look=options.dry_run)
        show_plan(console, plan)
        if options.dry_run:
            return 0
        plan.save()
        if options.executor == "slurm":
            _submit(console, plan, options)
            return 0
        run_here(console, plan, options.workers)
        show_report(console, plan)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return 130
    return 0


def _submit(console: Console, plan: WorkPlan, options: argparse.Namespace) -> None:
    from data_prep.prepare.engine import submit

    pairs = [option.partition("=") for option in options.slurm]
    if not all(equals for _, equals, _ in pairs):
        raise ConfigError(f"--slurm wants KEY=VALUE, got {options.slurm}")
    numbers = ("cpus_per_task", "mem_per_cpu_gb", "max_array_size", "requeue")
    slurm = {key: int(value) if key in numbers else value for key, _, value in pairs}
    if missing := {"partition", "time"} - slurm.keys():
        raise ConfigError(f"--slurm needs {', '.join(sorted(missing))}")
    submit(plan, options.workers, slurm)
    console.print("submitted; the same command shows the plan again, squeue the jobs")


if __name__ == "__main__":
    sys.exit(main())

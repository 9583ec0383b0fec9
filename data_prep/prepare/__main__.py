"""Command that prepares the data of a language; see `python -m data_prep.prepare --help`."""

from core.process.command import catch_user_errors

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import ConfigError
from core.io.files import sole_writer
from core.io.reading import read_json_file
from core.process.loading import without_collection
from core.process.options import given_path, whole_number
from data_prep.prepare.recipe_folders import PREPARE_RECIPES

if TYPE_CHECKING:
    from rich.console import Console

    from data_prep.prepare.work import WorkPlan

_DISPLAY_INTERVAL_S = 0.5
_EPILOG = """examples:
  python -m data_prep.prepare --language eu --recipe paper --dry-run
      estimates the cost without preparing anything
  python -m data_prep.prepare --language eu --recipe paper --limit 200
      a small end-to-end run
  ct2-transformers-converter --model HiTZ/mt-hitz-en-eu --output_dir models/en-eu \\
      --copy_files source.spm target.spm
  python -m data_prep.prepare --language eu --recipe paper \\
      --set translate.backend=ctranslate2 translate.model=models/en-eu
      translates with a Marian-style model (pip install '.[prepare]')
  python -m data_prep.prepare --language cy --recipe paper --set translate.backend=endpoint \\
      translate.endpoint.url=http://127.0.0.1:8000/v1 translate.endpoint.model=NAME
      translates with a language model behind an OpenAI-compatible endpoint (vLLM or a provider)
  python -m data_prep.prepare --language eu --recipe paper --set 'cc3m.place=/data/cc3m/*.parquet'
      reads a source from a mirror or from local files

Rerun the same command to resume an interrupted run; nothing is fetched or translated twice.
The API key is read from the environment variable that translate.endpoint.key_variable names.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    known = ", ".join(sorted(path.stem for path in PREPARE_RECIPES.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.prepare",
        description="Prepare the training data of a language: read published datasets, fetch "
        "their images,\ntranslate and check their texts, and write shards.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--language", required=True, metavar="CODE", help="code of the target language, e.g. eu")
    add("--recipe", required=True, help=f"recipe to prepare: {known}, or a YAML file")
    add(
        "--out",
        type=given_path,
        metavar="DIR",
        help="folder of the prepared data (default: data/prepared/CODE)",
    )
    add(
        "--limit",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="prepare only the first N rows of each source (default: all)",
    )
    add(
        "--set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        action="extend",
        dest="overrides",
        help="override fields of the recipe (translate.backend=...) or of a source "
        "(cc3m.place=...); may be repeated",
    )
    add(
        "--workers",
        type=whole_number(1),
        default=2,
        metavar="N",
        help="number of tasks that run in parallel (default: %(default)s)",
    )
    add("--dry-run", action="store_true", help="print the plan and its estimated cost, then exit")
    add(
        "--executor",
        choices=("local", "slurm"),
        default="local",
        help="where tasks run; slurm submits job arrays through datatrove and needs --slurm "
        "partition=... time=... (default: %(default)s)",
    )
    add(
        "--slurm",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of datatrove's SlurmPipelineExecutor: partition, time, cpus_per_task, "
        "mem_per_cpu_gb, env_command, venv_path, qos",
    )
    return parser


def show_plan(console: "Console", plan: "WorkPlan") -> None:
    """Print a table of the plan with its estimated cost."""
    from rich.table import Table

    from data_prep.prepare import planning

    table = Table(title=f"Recipe {plan.recipe} for '{plan.language}' in {plan.out}")
    for name in (
        "source",
        "rows",
        "tasks",
        "usable",
        "translated by",
        "tokens",
        "to fetch",
        "hours",
        "money",
        "GB",
    ):
        table.add_column(name, justify="left" if name in ("source", "translated by") else "right")
    total = [0.0, 0.0, 0.0]
    for source in plan.sources:
        found = planning.estimate(plan, source)
        total = [
            a + b for a, b in zip(total, (found.hours, found.money, found.gigabytes), strict=True)
        ]
        table.add_row(
            source.name,
            f"{found.num_rows:,}",
            f"{len(source.parts):,}",
            f"{found.usable:.0%}",
            found.by,
            f"{found.tokens:,.0f}",
            f"{found.downloads:,}",
            f"{found.hours:,.2f}",
            f"{found.money:,.2f}",
            f"{found.gigabytes:,.2f}",
        )
    table.add_row("all", "", "", "", "", "", "", *(f"{value:,.2f}" for value in total))
    console.print(table)
    speed = plan.config.translate.tokens_per_s
    console.print(
        f"Rows are counted; the rest is extrapolated from the first of each source, at an assumed "
        f"{speed:,.0f} tokens/s of translation and 50 images/s, for one task at a time.",
        highlight=False,
    )


def run_here(console: "Console", plan: "WorkPlan", workers: int) -> None:
    """Run all steps on this machine and show their progress."""
    with without_collection():
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        from data_prep.prepare.engine import Step, run_local

    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeElapsedColumn(),
    )
    rows = sum(source.num_rows for source in plan.sources)
    with Progress(*columns, console=console) as progress:
        for step in Step:
            is_wide = step in (Step.COLLECT, Step.PRODUCE)
            task = progress.add_task(step, total=rows if is_wide else 1, status="")
            with _ProgressWatcher(
                plan,
                step,
                lambda done, status, t=task: progress.update(t, **_progress_update(done, status)),
            ):
                run_local(plan, step, workers)
            progress.update(task, completed=rows if is_wide else 1)


def _progress_update(done: float | None, status: str) -> dict[str, Any]:
    return {"status": status} if done is None else {"completed": done, "status": status}


class _ProgressWatcher:
    """Thread that sums the progress files of running tasks and passes the sums to a display."""

    def __init__(self, plan: "WorkPlan", step: Any, show: Any) -> None:
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
        while not self._stop.wait(_DISPLAY_INTERVAL_S):
            sums = self._sums()
            self._show(sums.get("items"), self._format_status(sums))

    def _sums(self) -> dict[str, float]:
        sums: dict[str, float] = {}
        for path in self._folder.glob(f"{self._step}-*.json"):
            try:
                for name, value in json.loads(path.read_text(encoding="utf-8")).items():
                    sums[name] = sums.get(name, 0.0) + value
            except (OSError, ValueError):
                continue  # the file is being replaced
        return sums

    def _format_status(self, sums: dict[str, float]) -> str:
        if not sums.get("translated"):
            return ""
        rate = (sums["translated"] - self._before) / max(1e-9, time.monotonic() - self._begin)
        status = f"{sums['translated']:,.0f} texts translated, {rate:,.1f}/s"
        tokens = sums.get("tokens_in", 0.0) + sums.get("tokens_out", 0.0)
        if tokens:
            status += f", {tokens:,.0f} tokens"
        return status + (f", cost {sums['money']:,.2f}" if sums.get("money") else "")


def show_report(console: "Console", plan: "WorkPlan") -> None:
    """Print how many rows each step received, wrote and left out, with the reasons."""
    from rich.markup import escape
    from rich.table import Table

    from data_prep.prepare.steps.finish import REPORT

    report = read_json_file(plan.out / REPORT, fix="run the command again")
    table = Table(title="Rows per step")
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
            f"For annotators (docs/guides/human-evaluation.md): {plan.out}/validate/NAME.jsonl",
            highlight=False,
            soft_wrap=True,
        )


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Plan the preparation, run it and print its report."""
    options = build_parser().parse_args(arguments)
    with without_collection():
        from rich.console import Console

        from data_prep.prepare import planning
        from data_prep.prepare.recipe import load_recipe

    console = Console()
    out = options.out or Path("data/prepared") / options.language
    config, recipes = load_recipe(options.recipe, options.overrides)
    order = planning.PreparationRequest(
        recipe=Path(options.recipe).stem,
        language=options.language,
        out=out,
        limit=options.limit,
    )
    with contextlib.nullcontext() if options.dry_run else sole_writer(out):
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
    return 0


def _submit(console: "Console", plan: "WorkPlan", options: argparse.Namespace) -> None:
    with without_collection():
        from data_prep.prepare.engine import submit

    pairs = [option.partition("=") for option in options.slurm]
    if not all(equals for _, equals, _ in pairs):
        raise ConfigError(f"--slurm {options.slurm}, expected KEY=VALUE")
    numbers = ("cpus_per_task", "mem_per_cpu_gb", "max_array_size", "requeue")
    slurm = {key: int(value) if key in numbers else value for key, _, value in pairs}
    if missing := {"partition", "time"} - slurm.keys():
        raise ConfigError(f"--slurm lacks {', '.join(sorted(missing))}; add them as KEY=VALUE")
    submit(plan, options.workers, slurm)
    console.print("submitted; squeue lists the jobs, and the same command shows the plan again")


if __name__ == "__main__":
    sys.exit(main())

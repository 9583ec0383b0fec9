"""Run an experiment: train and evaluate every cell, or resume an interrupted grid.

python -m experiments.run --exp mix_ablation
"""

from core.process.command import catch_user_errors

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.markup import escape

from core.errors import PreemptedError, StageFailedError
from core.process.interrupts import end_helpers, end_work_on, ending_at_once
from core.process.loading import without_collection
from core.process.stop import STOP_SIGNALS, StopFlag
from experiments.cli import add_grid_options, request_of
from pipeline.launchers import forkserver

if TYPE_CHECKING:
    from configuration.grid_request import GridRequest
    from experiments.run_steps.grid_run import GridRun
    from experiments.run_steps.sequential_plan import SequentialOptions, SequentialPlan
    from pipeline.grid_plan import GridPlan
    from pipeline.store.store import Store

_TABLE_WIDTH = 183
"""Width of the tables where the output is not a terminal."""
_LAUNCHERS = ("local", "slurm", "torchrun")

_EPILOG = """examples:
  python -m experiments.run --list
  python -m experiments.run --exp smoke
  python -m experiments.run --exp mix_ablation --dry-run
  python -m experiments.run --profile paper --exp full_grid --dry-run --gpu a100-80
  python -m experiments.run --profile paper --exp full_grid --dry-run --trace-memory
  python -m experiments.run --exp mix_ablation --only share20 --seeds 3
  python -m experiments.run --exp my_experiment.py --dry-run
  python -m experiments.run --exp mix_ablation --replicate share20=3 share100=3
  python -m experiments.run --exp mix_ablation --why share20_s0
  python -m experiments.run --profile paper --exp mix_ablation --sequential --dry-run
  python -m experiments.run --exp mix_ablation --name longer --set instruct.num_steps=1800

Rerun the same command to resume an interrupted grid; finished stage runs are never repeated.
The configuration is configs/PROFILE.yaml with the overrides of --set; configuration/run_config.py
documents every field.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run",
        description="Train and evaluate every cell of an experiment, and write a report that "
        "compares them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    grid = add_grid_options(parser, experiment="", has_name=True)
    grid.add_argument(
        "--allow-data-change",
        action="append_const",
        const="trainer.allow_data_change=true",
        dest="overrides",
        help="resume checkpoints even if their data stream has changed; the log lists the changes",
    )
    _add_launch_options(parser)
    _add_sequential_options(parser)
    add = parser.add_argument_group("display options (print and exit)").add_argument
    add("--list", action="store_true", help="list the experiments")
    add(
        "--dry-run",
        action="store_true",
        help="print the plan of stage runs with its costs, and what each claim could show",
    )
    add(
        "--why",
        default="",
        metavar="CELL",
        help="print which stage runs of a cell (id or part of it) are finished, and which input of "
        "the others differs from the nearest finished one",
    )
    add(
        "--register",
        action="store_true",
        help="register the hypotheses of the grid before training: write a file to publish, with "
        "cells, seeds, margins and power (docs/guides/claims.md)",
    )
    add(
        "--trace-memory",
        action="store_true",
        help="print the plan, and compare it with the peak memory of a step of each training stage "
        "on fake tensors (no GPU needed)",
    )
    add("--verbose", action="store_true", help="with --dry-run: one line per stage run")
    add(
        "--gpu",
        default="h100",
        metavar="TYPE",
        help="GPU type of the costs estimated for --dry-run and --sequential (default: h100)",
    )
    return parser


def _add_launch_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("launch options").add_argument
    add("--jobs", type=int, default=0, metavar="N", help="CPU cores to use (default: all)")
    add(
        "--launcher",
        choices=_LAUNCHERS,
        default=_LAUNCHERS[0],
        help="local: processes on this node; slurm: a job per stage run, which continues when the "
        "command is stopped; torchrun: the nodes on which torchrun starts this command "
        "(docs/running/clusters.md) (default: local)",
    )
    add(
        "--slurm",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="settings of SLURM jobs: partition, gpu, time_min, gpus_per_node, cpus_per_task, "
        "mem_gb, account, qos, constraint, exclude, max_jobs",
    )
    add("--status", action="store_true", help="print the SLURM jobs of the grid and exit")
    add("--cancel", action="store_true", help="cancel the SLURM jobs of the grid and exit")


def _add_sequential_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("sequential grids (docs/guides/sequential.md)").add_argument
    add(
        "--sequential",
        action="store_true",
        help="train a designed part of the grid, then one cell after the other, until the "
        "registered claims are decided; with --dry-run, print the expected cells, hours and cost",
    )
    add(
        "--decide",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="hypotheses that decide what is trained (default: all about the measure of the first "
        "one)",
    )
    add(
        "--budget",
        type=float,
        default=math.inf,
        metavar="HOURS",
        help="stop before a cell that would exceed these GPU-hours (core-hours without GPUs), as "
        "planned for --gpu",
    )
    add(
        "--gpu-hour",
        type=float,
        default=2.5,
        metavar="PRICE",
        help="price of a GPU-hour, for the cost that --sequential --dry-run prints (default: 2.5)",
    )


def run(args: argparse.Namespace, console: Console, flag: StopFlag) -> None:
    """Execute the parsed command line.

    Args:
        args: The options of `build_parser`.
        console: Where to print.
        flag: Set by a signal that arrives while stage runs train.

    Raises:
        ConfigError: If an option is invalid.
        StageFailedError: If stage runs failed; the others are finished.
        PreemptedError: If the command was asked to stop; running stages have saved.
    """
    end_work_on(STOP_SIGNALS)
    with ending_at_once():
        work = _prepare(args, console, flag)
    if work is not None:
        work()


def _prepare(
    args: argparse.Namespace, console: Console, flag: StopFlag
) -> Callable[[], None] | None:
    """Load the libraries and make the plan; return what trains, or None if only to be shown.

    Nothing here needs a cleanup. A signal must not raise an exception here: if it does so in a
    function that torch calls from C++, the process aborts.
    """
    args.dry_run |= args.trace_memory
    is_display = args.list or args.dry_run or args.why or args.register or not args.exp
    if args.launcher == "local" and not is_display:
        forkserver.get_context()  # loads the libraries while this process plans
    if console.is_terminal:
        console.print("[dim]Loading[/]")  # the next imports take seconds
    with without_collection():  # these modules load torch
        from experiments.registry import questions
        from experiments.run_steps.console import show_experiments
        from experiments.run_steps.launching import LauncherName, LaunchOptions, make_slurm_launcher
        from experiments.run_steps.planning import make_plan
        from pipeline.store.store import Store

    options = LaunchOptions(
        launcher=LauncherName(args.launcher), num_cores=args.jobs, slurm=tuple(args.slurm)
    )
    if args.list or not args.exp:
        show_experiments(console, questions(args.exp))
        return None
    request = request_of(args)
    plan, store = make_plan(request), Store(request.root)
    if args.why:
        from experiments.run_steps.why import explain_cells

        explain_cells(console, plan.full_graph, store, args.why)
        return None
    if args.dry_run:
        _show_dry_run(args, request, plan, console)
        return None
    if args.register:
        from experiments.run_steps.registering import register_grid

        register_grid(request, plan, console)
        return None
    with without_collection():
        from experiments.run_steps.grid_run import GridRun
        from pipeline.launchers import slurm, torchrun

    if args.cancel or args.status:
        launcher = make_slurm_launcher(plan, options, store, flag)
        if args.cancel:
            console.print(f"{launcher.cancel()} jobs cancelled; finished stage runs are kept")
        else:
            slurm.show_status(console, launcher)
        return None
    if options.launcher is LauncherName.TORCHRUN and torchrun.is_follower():
        return partial(_follow, store, flag)
    grid = GridRun(request=request, options=options, plan=plan, flag=flag, console=console)
    return _run_sequential(args, grid) if args.sequential else grid.run


def _run_sequential(args: argparse.Namespace, grid: "GridRun") -> Callable[[], None]:
    """Return the run that trains one cell after the other."""
    from experiments.run_steps.sequential_run import SequentialRun

    found = _plan_sequential(args, grid.request, grid.plan)
    return SequentialRun(grid, found, budget=args.budget).run


def _sequential_options(args: argparse.Namespace) -> "SequentialOptions":
    from experiments.run_steps.sequential_plan import SequentialOptions

    return SequentialOptions(decide=tuple(args.decide), budget=args.budget, price=args.gpu_hour)


def _plan_sequential(
    args: argparse.Namespace, request: "GridRequest", plan: "GridPlan"
) -> "SequentialPlan":
    from experiments.run_steps.sequential_plan import plan_sequential

    return plan_sequential(request, plan, _sequential_options(args), args.gpu)


def _follow(store: "Store", flag: StopFlag) -> NoReturn:
    from pipeline.launchers import torchrun

    with flag.listening():
        sys.exit(torchrun.follow(store, flag))


def _show_dry_run(
    args: argparse.Namespace, request: "GridRequest", plan: "GridPlan", console: Console
) -> None:
    """Print the plan and what its claims could show, then check that the data fit.

    Raises:
        DataError: If training samples do not fit into rows.
    """
    from experiments.run_steps.registering import assumed_variances, planned_claims
    from pipeline.store.store import Store
    from pipeline.training_data_checks import check_training_data
    from planner.gpus import get_gpu
    from reporting.dry_run.claims import show_claims
    from reporting.dry_run.tables import show_plan

    get_gpu(args.gpu)  # an unknown type is an error even if the plan needs no GPU
    show_plan(console, plan, root=request.root, gpu=args.gpu, is_verbose=args.verbose)
    if args.trace_memory:
        from reporting.dry_run.memory_trace import show_memory_traces

        show_memory_traces(console, plan, root=request.root)
    if plan.cells:
        assumed = assumed_variances(request)
        show_claims(console, planned_claims(request, plan, assumed), assumed)
    if args.sequential:
        from experiments.run_steps.sequential_plan import show_sequential

        found = _plan_sequential(args, request, plan)
        show_sequential(console, request, plan, found, _sequential_options(args))
    check_training_data(plan.graph, Store(request.root))


@catch_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit status distinguishes preempted runs, failed stages and misuse."""
    console, flag = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH), StopFlag()
    try:
        run(build_parser().parse_args(argv), console, flag)
    except PreemptedError as error:
        console.print(f"[yellow]{error}[/]")
        return flag.exit_status
    except StageFailedError as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        return 1
    finally:
        end_helpers()
    return 0


if __name__ == "__main__":
    sys.exit(main())

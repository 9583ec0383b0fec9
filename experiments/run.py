"""The main command: run every cell of an experiment, continue what was interrupted.

python -m experiments.run --exp mix_ablation
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError, PreemptedError, StageFailedError
from core.process.command import clear_errors
from core.process.stop import EXIT_PREEMPTED, StopFlag
from pipeline.launchers import forkserver as forks

_WIDTH = 170
"""Columns of a table that goes to a file."""

_EPILOG = """examples:
  python -m experiments.run --list
  python -m experiments.run --exp smoke
  python -m experiments.run --exp mix_ablation --dry-run
  python -m experiments.run --profile paper --exp full_grid --dry-run --gpu a100-80
  python -m experiments.run --exp mix_ablation --only share20 --seeds 3
  python -m experiments.run --exp mix_ablation --set instruct.num_steps=600

The same command continues an interrupted grid; finished stages are never run twice.
Configuration: configs/PROFILE.yaml, then --set; configuration/run_config.py describes every field.
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.run",
        description="Train and evaluate every cell of an experiment, and compare them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--exp", help="name of the experiment (see --list)")
    add("--profile", default="embedded", help="configuration in configs/ (default: embedded)")
    add("--only", nargs="+", default=[], metavar="PART", help="cells whose id contains a part")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="A.B=C",
        dest="overrides",
        help="change a value",
    )
    add(
        "--allow-data-change",
        action="append_const",
        const="trainer.allow_data_change=true",
        dest="overrides",
        help="continue a checkpoint although its data stream was another (the log says what)",
    )
    add("--seeds", type=int, default=1, help="training seeds per cell (default: 1)")
    add("--jobs", type=int, default=0, help="cores to use (default: all)")
    add("--launcher", choices=("local", "slurm", "torchrun"), default="local",
        help="slurm: one job per stage run, and the command may be closed; torchrun: on the nodes "
        "that torchrun starts the command on (docs/running/clusters.md)")  # fmt: skip
    add("--slurm", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
        help="what a job asks for: partition=, gpu=, time_min=, gpus_per_node=, cpus_per_task=, "
        "mem_gb=, account=, qos=, constraint=, exclude=, max_jobs=")  # fmt: skip
    add("--cancel", action="store_true", help="with --launcher slurm: cancel the grid's jobs")
    add("--status", action="store_true", help="with --launcher slurm: what is queued and running")
    add("--root", type=Path, default=Path("mlruns"), help="where results go (default: mlruns)")
    add("--dry-run", action="store_true", help="print what would run, and stop")
    add("--gpu", default="h100", help="with --dry-run: kind of GPU to plan for (default: h100)")
    add("--list", action="store_true", help="print the experiments, and stop")
    return parser


def run(args: argparse.Namespace, console: Console) -> None:
    """Do what the command line says.

    Raises:
        StageFailedError: some stages failed; the others are finished.
        PreemptedError: a stop was asked for and everything is saved.
    """
    flag = StopFlag()
    flag.install()
    if args.exp and args.launcher == "local" and not (args.list or args.dry_run):
        forks.start_early()
    from experiments import console as view
    from experiments.planning import make_plan
    from experiments.registry import questions

    if args.jobs < 0:
        raise ConfigError(f"--jobs must be 0 (all cores) or more, got {args.jobs}")
    if args.list or not args.exp:
        view.show_experiments(console, questions())
        return
    plan = make_plan(args)
    if args.dry_run:
        from planner.tables import show_plan

        show_plan(console, plan, root=args.root, gpu=args.gpu)
        return
    from experiments.grid_run import GridRun
    from pipeline.launchers import torchrun
    from pipeline.store.store import Store

    if args.cancel or args.status:
        from pipeline.launchers import slurm

        slurm.show(console, plan, args)
        return
    if args.launcher == "torchrun" and torchrun.is_follower():
        sys.exit(torchrun.follow(Store(args.root), flag))
    GridRun(args=args, plan=plan, flag=flag, console=console).run()


@clear_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run; the exit status tells a preempted run and a failed stage from a wrong word."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    try:
        run(build_parser().parse_args(argv), console)
    except PreemptedError as error:
        console.print(f"[yellow]{error}[/]")
        return EXIT_PREEMPTED
    except StageFailedError as error:
        console.print(f"[red]{escape(str(error))}[/]", soft_wrap=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

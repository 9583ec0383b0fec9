"""Trains one small grid per target language and writes one report about all of them.

python -m experiments.languages --languages eu ca cy es ga gl ka fr is
"""

from core.process.command import catch_user_errors

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import ConfigError, DataError
from core.process.loading import without_collection
from core.process.options import given_path, language_code

_EXPERIMENT = "language_ablation"
_DATA = Path("data/embedded_languages")
_EPILOG = """examples:
  python -m data_prep.embedded --languages en eu ca cy es ga gl ka fr is --without-text \\
      --out data/embedded_languages
      builds the data of all languages first, in one folder
  python -m experiments.languages --languages eu ca cy es ga gl ka fr is
  python -m experiments.languages --languages eu ca cy es ga gl ka fr is --report-only
  python -m experiments.languages --languages eu cy ga ka --replicate share20=3 share100=3
      three trainings of the cells that are compared over languages

Every language has a grid of its own (language_ablation-PROFILE-CODE) with registered claims and a
report. Stage runs that languages share, such as the features of the images, run once. A stopped
command continues where it was; a language that failed is named in the report.
"""


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Train the grids and write the report; the exit status is that of the worst grid."""
    options = _parse(arguments)
    with without_collection():
        from rich.console import Console
        from rich.markup import escape

        from reporting.languages.results import load_about

    console = Console()
    if not options.data.is_dir():
        every = " ".join(["en", *options.languages])
        raise ConfigError(
            f"no data at '{options.data}'; build it first: python -m data_prep.embedded "
            f"--languages {every} --out {options.data}"
        )
    for code in options.languages:
        load_about(code)  # a missing file is an error before anything is trained
    status = 0
    for code in options.languages:
        console.print(f"[bold]{escape(code)}[/]", highlight=False)
        if not options.report_only:
            command = [sys.executable, "-m", "experiments.run", *_grid_arguments(options, code)]
            status = max(status, subprocess.run(command, check=False).returncode)
    if options.dry_run:
        return status
    page = _write_report(options)
    console.print(f"report: {escape(str(page))}", highlight=False, soft_wrap=True)
    return status


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.languages",
        description="Train a small grid for each of several target languages, and compare them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--languages",
        nargs="+",
        type=language_code,
        required=True,
        metavar="CODE",
        help="target languages",
    )
    add(
        "--data",
        type=given_path,
        default=_DATA,
        metavar="DIR",
        help="folder with the data of all languages (default: %(default)s)",
    )
    add("--profile", default="embedded", help="configuration file in configs/ (default: embedded)")
    add("--root", type=given_path, default=Path("mlruns"), help="output folder (default: mlruns)")
    add("--seeds", type=int, default=1, help="training seeds per cell (default: 1)")
    add(
        "--replicate",
        nargs="+",
        default=[],
        metavar="SELECTOR=N",
        help="N training seeds for the cells of a selector, e.g. share20=3 (others: --seeds)",
    )
    add("--jobs", type=int, default=0, metavar="N", help="CPU cores to use (default: all)")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="override configuration values of all grids",
    )
    add("--dry-run", action="store_true", help="only print the plan of every grid")
    add("--report-only", action="store_true", help="only write the report of finished grids")
    options = parser.parse_args(arguments)
    if len(set(options.languages)) < len(options.languages):
        raise ConfigError(f"--languages {' '.join(options.languages)}: name each language once")
    return options


def _grid_name(options: argparse.Namespace, code: str) -> str:
    return f"{_EXPERIMENT}-{options.profile}-{code}"


def _grid_arguments(options: argparse.Namespace, code: str) -> list[str]:
    """Return the command line of the grid of one language."""
    overrides = [f"languages.target={code}", f"data.folder={options.data}", *options.overrides]
    return [
        *("--exp", _EXPERIMENT, "--profile", options.profile, "--name", _grid_name(options, code)),
        *("--root", str(options.root), "--seeds", str(options.seeds), "--jobs", str(options.jobs)),
        *(["--replicate", *options.replicate] if options.replicate else []),
        *(["--dry-run"] if options.dry_run else []),
        *("--set", *overrides),
    ]


def _write_report(options: argparse.Namespace) -> Path:
    """Write the page about all languages whose grids have run."""
    with without_collection():
        from configuration.run_config import RunConfig
        from core.config import load_config
        from datamodules.shards.manifest import SUFFIX
        from reporting.languages.page import write_language_page
        from reporting.languages.results import language_result, token_ratio
        from reporting.records import load_grid

    profile = Path("configs") / f"{options.profile}.yaml"
    config = load_config(RunConfig, profile, overrides=options.overrides)
    results, missing = [], []
    for code in options.languages:
        try:
            name = _grid_name(options, code)
            grid = load_grid(options.root, _EXPERIMENT, options.profile, name)
            tokens = token_ratio(
                options.data / f"{config.data.benchmarks[0]}{SUFFIX}",
                config.backbone.path,
                base=config.languages.base,
                target=code,
            )
            results.append(language_result(grid, tokens=tokens))
        except DataError as error:
            missing.append(f"{code} ({error})")
    if not results:
        raise DataError(f"no grid has results yet: {'; '.join(missing)}", "missing")
    out = options.root / "grids" / f"{_EXPERIMENT}-{options.profile}"
    return write_language_page(results, out, missing="; ".join(missing))


if __name__ == "__main__":
    sys.exit(main())

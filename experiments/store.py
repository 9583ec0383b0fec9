"""Shows and manages results on disk: list, show, remove, prune, bundle and import.

python -m experiments.store list
"""

from core.process.command import catch_user_errors

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.process.options import file_name, given_path

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.store.inventory import Inventory
    from pipeline.store.removal import Removal

_EPILOG = """examples:
  python -m experiments.store list
      grids, their sizes, and what no grid needs
  python -m experiments.store show mix_ablation-embedded
      cells of a grid and the sizes of their stage runs
  python -m experiments.store remove mix_ablation-embedded general_share20_s0 --yes
      results of a cell; the next run of the grid computes them again
  python -m experiments.store remove mix_ablation-embedded general_share20_s0 --stage evaluate --yes
      one stage run of a cell, and everything that was computed from it
  python -m experiments.store prune
      what no grid needs; nothing is deleted without --yes
  python -m experiments.store bundle mix_ablation-embedded --out study.tar
      reports, predictions, fields and metrics for a colleague or a supplement
  python -m experiments.store import study.tar --root mlruns/theirs

docs/running/results-on-disk.md explains what is stored where and what may be deleted.
"""
_TABLE_WIDTH = 120
"""Width of the tables where the output is not a terminal."""
_MAX_SHOWN = 20
"""Stage runs that a removal lists one by one."""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.store",
        description="Show and manage the results in an output folder.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parsers = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add_action(name: str, description: str) -> argparse.ArgumentParser:
        found = parsers.add_parser(name, help=description, description=description)
        found.add_argument(
            "--root",
            type=given_path,
            default=Path("mlruns"),
            metavar="FOLDER",
            help="output folder of all runs (default: mlruns)",
        )
        return found

    add_action("list", "list grids, their sizes, and what no grid needs")
    show = add_action("show", "show the cells of a grid, or one stage run")
    show.add_argument("name", metavar="NAME", help="name of a grid, or the beginning of an address")
    remove = add_action("remove", "delete cells of a grid, or a grid, and what only they need")
    remove.add_argument("grid", metavar="GRID", help="name of the grid")
    remove.add_argument("cells", nargs="*", metavar="CELL", help="cells (default: the whole grid)")
    remove.add_argument(
        "--stage",
        default="",
        metavar="KIND",
        help="delete the stage runs of this kind, and everything that was computed from them, "
        "whatever cells need it",
    )
    prune = add_action("prune", "delete what no grid needs")
    for one in (remove, prune):
        one.add_argument("--yes", action="store_true", help="delete; otherwise only show what")
    bundle = add_action("bundle", "write grids with their results into a tar file")
    bundle.add_argument("grids", nargs="+", metavar="GRID", help="names of grids")
    bundle.add_argument(
        "--out", type=given_path, required=True, metavar="FILE", help="tar file to write"
    )
    bundle.add_argument(
        "--weights", action="store_true", help="include weights and features, which are large"
    )
    importing = add_action("import", "add the grids of a bundle to an output folder")
    importing.add_argument("file", type=given_path, metavar="FILE", help="tar file of `bundle`")
    importing.add_argument("--name", type=file_name, metavar="NAME", help="new name of the grid")
    importing.add_argument(
        "--no-mlflow", action="store_true", help="do not add the runs to the MLflow database"
    )
    return parser


def list_store(options: argparse.Namespace) -> int:
    """Print the grids of an output folder with their sizes."""
    from rich.table import Table

    from pipeline.store.inventory import Inventory, folder_bytes, format_bytes

    inventory = Inventory.of(options.root)
    sizes = {address: folder_bytes(stage.path) for address, stage in inventory.stages.items()}
    table = Table(title=f"Grids in {options.root}")
    for name in ("grid", "cells", "finished", "size", "needed by it alone", "last start"):
        table.add_column(name, justify="left" if name in ("grid", "last start") else "right")
    for grid in inventory.grids.values():
        own = inventory.with_inputs(grid.addresses) & inventory.stages.keys()
        rest = [a for other in inventory.grids.values() if other != grid for a in other.addresses]
        alone = own - inventory.with_inputs(rest)
        finished = sum(inventory.stages[address].is_done for address in own)
        table.add_row(
            grid.name + (" (running)" if grid.is_running else ""),
            str(len(grid.cells)),
            f"{finished} of {len(grid.addresses)}",
            format_bytes(sum(sizes[address] for address in own)),
            format_bytes(sum(sizes[address] for address in alone)),
            _format_time((grid.path / "grid.json").stat().st_mtime),
        )
    _print(table)
    spare = inventory.stages.keys() - inventory.needed
    parts = [f"{len(spare)} stage runs that no grid needs"]
    lines = [(parts[0], sum(sizes[address] for address in spare))]
    for name in ("cache", "artifacts", "mlflow.db"):
        path = options.root / name
        if path.exists():
            lines.append((name, folder_bytes(path) if path.is_dir() else path.stat().st_size))
    for text, size in lines:
        _print(f"{text}: {format_bytes(size)}")
    return 0


def show_entry(options: argparse.Namespace) -> int:
    """Print the cells of a grid, or the stage run with an address."""
    from pipeline.store.inventory import Inventory

    inventory = Inventory.of(options.root)
    if options.name in inventory.grids:
        _show_grid(inventory, options.name)
    else:
        _show_stage(inventory, options.name)
    return 0


def remove_entries(options: argparse.Namespace) -> int:
    """Delete cells or a grid, or print what would be deleted."""
    from pipeline.store.removal import plan_removal

    return _delete(
        options,
        lambda inventory: plan_removal(
            inventory, options.grid, options.cells, stage_kind=options.stage
        ),
    )


def prune_store(options: argparse.Namespace) -> int:
    """Delete what no grid needs, or print it."""
    from pipeline.store.removal import plan_prune

    return _delete(options, plan_prune)


def write_study(options: argparse.Namespace) -> int:
    """Write a bundle and print what it has."""
    from pipeline.store.bundle import write_bundle
    from pipeline.store.inventory import Inventory, format_bytes
    from pipeline.store.locks import using_store

    inventory = Inventory.of(options.root)
    with using_store(options.root):
        content = write_bundle(inventory, options.grids, options.out, has_weights=options.weights)
    _print(
        f"{options.out}: {format_bytes(content.num_bytes)}, {len(content.grids)} grids, "
        f"{content.num_stages} stage runs, {content.num_files} files"
    )
    if content.left_out:
        size = format_bytes(sum(content.left_out.values()))
        _print(f"Left out: {len(content.left_out)} files of {size} (weights and features).")
        _print("Add --weights to include them.")
    if content.unfinished:
        _print(f"Not finished, and not part of it: {', '.join(content.unfinished)}")
    return 0


def import_study(options: argparse.Namespace) -> int:
    """Add a bundle to an output folder, and its runs to MLflow."""
    from pipeline.store.bundle_import import import_bundle
    from pipeline.store.locks import changing_store

    with changing_store(options.root):
        result = import_bundle(options.file, options.root, name=options.name or "")
    _print(
        f"{', '.join(result.grids)}: {result.added} stage runs added, {result.kept} were there "
        f"already. Reports: {options.root}/grids/NAME/report/report.html"
    )
    if result.incomplete:
        _print(
            f"{result.incomplete} stage runs have no weights or features: they can be compared and "
            "reported, and running the grid again would compute them again."
        )
    if options.no_mlflow:
        return 0
    _print("Adding the runs to MLflow")
    from pipeline.store.notes import read_grid_json
    from reporting.tracking.sync import sync_grid

    is_behind = False
    for name in result.grids:
        about = read_grid_json(options.root / "grids" / name)
        if about["cells"]:
            key = str(about["experiment"]), str(about["profile"])
            is_behind |= sync_grid(options.root, *key, name).is_behind
    if is_behind:
        _print(f"MLflow lacks some of them: python -m experiments.sync --root {options.root}")
    return int(is_behind)


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": list_store,
    "show": show_entry,
    "remove": remove_entries,
    "prune": prune_store,
    "bundle": write_study,
    "import": import_study,
}


def _delete(options: argparse.Namespace, plan: "Callable[[Inventory], Removal]") -> int:
    """Show what a plan deletes, and delete it with `--yes`, while no grid runs."""
    from pipeline.store.inventory import Inventory
    from pipeline.store.locks import changing_store
    from pipeline.store.removal import execute

    if not options.yes:
        inventory = Inventory.of(options.root)
        if _show_removal(inventory, plan(inventory)):
            _print("Nothing was deleted; add --yes to delete it.")
        return 0
    with changing_store(options.root):
        inventory = Inventory.of(options.root)
        removal = plan(inventory)
        if _show_removal(inventory, removal):
            execute(options.root, removal)
            _print("Deleted.")
    return 0


def _show_removal(inventory: "Inventory", removal: "Removal") -> bool:
    """Print what a plan deletes; return whether it deletes anything."""
    from pipeline.store.inventory import folder_bytes, format_bytes

    for stage in removal.kept:
        _print(f"kept, because other cells or grids need it: {stage.title} ({stage.address})")
    if not removal.paths:
        _print("There is nothing to delete.")
        return False
    for grid in removal.grids:
        _print(f"grid {grid.name}, with its report: {format_bytes(folder_bytes(grid.path))}")
    affected: dict[str, set[str]] = {}
    total = sum(folder_bytes(path) for path in removal.paths)
    for at, stage in enumerate(removal.stages):
        if at < _MAX_SHOWN:
            size = format_bytes(folder_bytes(stage.path))
            _print(f"{stage.title} ({stage.kind}/{stage.address}): {size}")
        for name, cell in inventory.users(stage.address):
            affected.setdefault(name, set()).add(cell)
    if len(removal.stages) > _MAX_SHOWN:
        _print(f"... and {len(removal.stages) - _MAX_SHOWN} more stage runs")
    for path in removal.leftovers:
        _print(f"remains of an interrupted command: {path}")
    for name in sorted(affected.keys() - {grid.name for grid in removal.grids}):
        cells = ", ".join(sorted(filter(None, affected[name]))) or "all of it"
        _print(f"Grid {name} computes these cells again when it is run next: {cells}")
    num = len(removal.stages)
    _print(f"Together {format_bytes(total)} in {num} stage runs")
    return True


def _show_grid(inventory: "Inventory", name: str) -> None:
    from rich.table import Table

    from pipeline.store.inventory import folder_bytes, format_bytes

    grid = inventory.grids[name]
    kinds = list(dict.fromkeys(kind for stages in grid.cells.values() for kind in stages))
    table = Table(title=f"{name}: sizes of the stage runs (equal addresses are stored once)")
    table.add_column("cell", overflow="fold")
    for kind in kinds:
        table.add_column(kind, justify="right")
    for cell, stages in grid.cells.items():
        row = []
        for kind in kinds:
            stage = inventory.stages.get(stages.get(kind, ""))
            if kind not in stages:
                row.append("")
            elif stage is None or not (stage.is_done or stage.lacks_files):
                row.append("not finished")
            else:
                note = ", no weights" if stage.lacks_files else ""
                row.append(f"{format_bytes(folder_bytes(stage.path))}{note}")
        table.add_row(cell, *row)
    _print(table)
    _print(f"Report: {grid.path}/report/report.html")


def _show_stage(inventory: "Inventory", name: str) -> None:
    """Print one stage run.

    Raises:
        DataError: If no grid and no stage run, or several, have the name.
    """
    from core.errors import DataError
    from pipeline.store.inventory import folder_bytes, format_bytes

    found = [one for address, one in inventory.stages.items() if address.startswith(name)]
    if len(found) != 1:
        grids = ", ".join(inventory.grids) or "none"
        raise DataError(
            f"'{name}' is the name of no grid ({grids}), and the beginning of {len(found)} "
            "addresses; give more of the address"
        )
    stage = found[0]
    state = "finished" if stage.is_done else "not finished"
    if stage.lacks_files:
        state = "imported without its weights or features"
    _print(f"{stage.title}: {state}, {format_bytes(folder_bytes(stage.path))}")
    _print(f"folder: {stage.path}")
    for address in stage.inputs:
        upstream = inventory.stages.get(address)
        _print(f"computed from: {upstream.title if upstream else 'deleted'} ({address})")
    for grid, cell in inventory.users(stage.address):
        _print(f"needed by: {grid} {cell}".rstrip())


def _print(what: "RenderableType") -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    console.print(what, highlight=False, markup=False, soft_wrap=isinstance(what, str))


def _format_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one action."""
    options = build_parser().parse_args(arguments)
    return ACTIONS[options.action](options)


if __name__ == "__main__":
    sys.exit(main())

"""Advise on a budget: what more data or steps would gain, and what they cost.

python -m experiments.advise --exp mix_ablation --price 0.02/item --gpu-hour 2.5
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from configuration.grid_request import GridRequest
from core.errors import ConfigError
from core.process.loading import without_collection
from experiments.cli import add_grid_options

if TYPE_CHECKING:
    from reporting.sequential.advice import Advice

_EPILOG = """examples:
  python -m experiments.advise --exp mix_ablation --price 0.02/item --gpu-hour 2.5
  python -m experiments.advise --exp mix_ablation --at general_share40_txt_s0 --items 200

The answers come from a surface that is fitted to the trained cells of the grid, and concern the
deciding metric of open questions in the target language (docs/guides/sequential.md).
"""
_UNIT = "/item"


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the advice; the exit status is 1 if the grid can't answer anything."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.advise",
        description="Predict what more translated items, text-only data or steps would gain.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    omit = ("--set", "--seeds", "--replicate", "--only")
    add = add_grid_options(parser, omit=omit, has_name=True).add_argument
    add("--at", default="", metavar="CELL", help="cell to improve (default: the best one)")
    add("--items", type=int, default=1000, metavar="N", help="more items (default: 1000)")
    add("--price", default="0/item", metavar="PRICE/item", help="price of a translated item")
    add("--gpu-hour", type=float, default=0.0, metavar="PRICE", help="price of an hour")
    options = parser.parse_args(arguments)
    with without_collection():
        from rich.console import Console

        from reporting.records import load_grid
        from reporting.sequential.advice import Advisor, Prices, training_hours

    prices = Prices(item=_parse_price(options.price), hour=options.gpu_hour)
    if options.items < 1 or prices.hour < 0:
        raise ConfigError("--items must be at least 1, and --gpu-hour at least 0")
    name, _ = GridRequest.split_experiment(options.exp)
    grid = load_grid(options.root, name, options.profile, options.name)
    advisor, console = Advisor(grid), Console(width=None if sys.stdout.isatty() else 183)

    def line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    checked = advisor.surface.validate()
    line(
        f"{grid.title}: {checked.num_inside} of {checked.num_cells} withheld cells are inside "
        f"their 90 % prediction interval, with a mean error of {100 * checked.mean_error:.1f} "
        "points."
    )
    if checked.refusal:
        line(f"No advice: {checked.refusal}.")
        return 1
    cell_id = options.at or advisor.surface.best_cell
    line(f"At {cell_id}, gains of {advisor.surface.measure.describe()} in {grid.target_language}:")
    hours = {cell.cell_id: training_hours(cell) for cell in grid.cells}
    found = [
        advisor.more_items(cell_id, options.items, prices),
        advisor.text_only(cell_id),
        advisor.more_steps(cell_id, hours.get(cell_id), prices),
    ]
    for advice in found:
        line(f"- {_describe(advice)}")
    line("Intervals are 90 % for the mean over trainings, under the surface.")
    return 1 if all(advice.refusal for advice in found) else 0


def _parse_price(text: str) -> float:
    number = text.removesuffix(_UNIT)
    try:
        price = float(number)
    except ValueError:
        price = -1.0
    if not price >= 0:
        raise ConfigError(f"--price {text}: expected a price per item, such as 0.02/item")
    return price


def _describe(advice: "Advice") -> str:
    if advice.refusal:
        return f"{advice.question}: can't be answered, because {advice.refusal}"
    gain = f"{100 * advice.gain:+.1f} points [{100 * advice.low:+.1f}, {100 * advice.high:+.1f}]"
    cost = "" if advice.cost is None else f" for {advice.cost:,.2f}"
    note = "" if advice.is_clear else "; not distinguishable from no effect"
    return f"{advice.question}: {gain}{cost}{note}"


if __name__ == "__main__":
    sys.exit(main())

"""Inspect the data stream of a training stage without training.

python -m experiments.inspect_stream --exp mix_ablation --only share20_s0 --at 12

The command starts from the configuration of an experiment, so it belongs here and not in
datamodules/. It uses the sources, lengths and batch plan of the real run; it loads no weights and
computes no features.
"""

from core.process.command import catch_user_errors

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from configuration.grid_request import GridRequest
from core.errors import ConfigError, unknown_name
from core.process.loading import without_collection
from core.process.options import given_path
from experiments.cli import add_grid_options, request_of

if TYPE_CHECKING:
    import torch

    from datamodules.inspection.stream_summary import SourceCount
    from datamodules.mixture_datamodule import MixtureDataModule
    from pipeline.graph import Graph, StageNode

_TABLE_WIDTH = 150
"""Width of the tables where the output is not a terminal."""
_STAGES = ("align", "instruct")
_EPILOG = """examples:
  python -m experiments.inspect_stream --exp mix_ablation --only share20_s0
      samples of the first step of stage 2, for the cell with 20 % Basque
  python -m experiments.inspect_stream --exp mix_ablation --only share20_s0 --at 350 --sheet a.png
      samples of step 350, and its images with their first question
  python -m experiments.inspect_stream --exp mix_ablation --only share20_s0 --range 0:900
      realised and requested shares over the whole stage
  python -m experiments.inspect_stream --exp smoke --stage align --at 5 --world-size 4
      a step of stage 1, divided among four ranks

columns of the tables:
  position     index in the stream; the sample at a position is the same on any hardware
  loss tokens  tokens on which the loss is computed
  rank/mb/row  rank, micro-batch and packed row of the sample; '-' and a reason if it is skipped
  expected     samples that the configuration asks for; 'diff' is the deviation of the stream.
               The shares of components are exact to one sample at any step, the language within a
               parallel component over whole epochs
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Steps to show, and how."""

    stage: str = "instruct"
    step: int | None = None
    """Step to list; None lists the first one, unless `steps` is set."""
    steps: range | None = None
    """Steps whose shares are summed."""
    sheet: Path | None = None
    """PNG file for the images of `step`."""
    world_size: int = 1
    """Number of ranks that share a step."""

    def __post_init__(self) -> None:
        """Check the options that don't depend on the stream."""
        if self.stage not in _STAGES:
            raise ConfigError(unknown_name("stage", self.stage, _STAGES))
        if self.world_size < 1:
            raise ConfigError(f"--world-size must be at least 1, got {self.world_size}")
        if self.sheet and self.steps and self.step is None:
            raise ConfigError("--sheet draws the images of one step; select it with --at")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.inspect_stream",
        description="List the samples of a training step, and the shares of every source.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_grid_options(parser)
    add = parser.add_argument_group("inspection options").add_argument
    add("--stage", default="instruct", help="align or instruct (default: instruct)")
    add("--at", type=int, metavar="STEP", help="step to list (default: 0, unless --range is set)")
    add("--range", type=_parse_range, metavar="A:B", help="sum the shares of the steps A to B-1")
    add("--sheet", type=given_path, metavar="PNG", help="write the images of the step to this file")
    add(
        "--world-size",
        type=int,
        default=1,
        metavar="N",
        help="number of ranks that share a step (default: 1)",
    )
    return parser


def inspect(request: GridRequest, options: InspectOptions, console: Console) -> None:
    """Print the tables of one training stage.

    Raises:
        ConfigError: If a name is unknown, or a step is outside of the stage.
        DataError: If a dataset is missing or damaged.
    """
    with without_collection():
        from experiments.run_steps.planning import make_plan  # loads torch

    node = find_stage(make_plan(request).graph, options.stage)
    module = open_stream(node, root=request.root)
    if options.step is not None or options.steps is None:
        show_step(console, module, node.title, options)
    if options.steps is not None:
        steps = _check_steps(options.steps, module.num_steps)
        show_shares(console, module, steps, world_size=options.world_size)


def find_stage(graph: "Graph", kind: str) -> "StageNode":
    """Return the training stage of a kind, which must be the same for all cells.

    Raises:
        ConfigError: If the cells have no such stage, or several different ones.
    """
    addresses = {stages[kind]: cell for cell, stages in graph.cells.items() if kind in stages}
    if not addresses:
        raise ConfigError(f"no cell has a stage '{kind}'; choose another --stage or --exp")
    if len(addresses) > 1:
        names = ", ".join(addresses.values())
        raise ConfigError(
            f"{len(addresses)} different '{kind}' stages: {names}; select one cell with --only"
        )
    return graph.nodes[next(iter(addresses))]


def open_stream(node: "StageNode", *, root: Path) -> "MixtureDataModule":
    """Open the data module of a stage as the stage does, but without decoding images."""
    from datamodules.mixture_datamodule import MixtureDataModule
    from pipeline.stages.training import TrainingStage
    from planner.encoding import load_chat_format

    spec = node.stage
    if not isinstance(spec, TrainingStage):
        raise TypeError(f"stage '{node.kind}' is not a training stage")
    chat = load_chat_format(spec.model)
    module = MixtureDataModule(
        # Noise is added to features, and none are loaded here.
        dataclasses.replace(spec.stream, feature_noise_std=0.0),
        chat=chat,
        num_steps=spec.num_steps,
        cache_dir=root / "cache",
        transform=_reject_image,
    )
    module.setup()
    return module


def show_step(
    console: Console, module: "MixtureDataModule", title: str, options: InspectOptions
) -> None:
    """Print every sample of a step and the shares of its sources."""
    from core.io.images import decode_image
    from datamodules.inspection import stream_summary as stream_view
    from datamodules.inspection.contact_sheet import cell_of, write_sheet

    step = options.step or 0
    steps = _check_steps(range(step, step + 1), module.num_steps)
    samples = stream_view.place_samples(module.data, step, world_size=options.world_size)
    table = Table(title=f"{title}: step {step} of {module.num_steps}")
    for name in ("position", "source", "language", "key", "tokens", "loss tokens", "rank/mb/row"):
        is_number = name in ("position", "tokens", "loss tokens")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for sample in samples:
        planned = sample.planned
        place = f"{sample.rank}/{sample.micro_batch}/{sample.row}"
        place = f"- {escape(sample.reason)}" if sample.reason else place
        origin = (planned.source.name, planned.source.language, escape(sample.key))
        numbers = (f"{planned.num_tokens}", f"{sample.num_loss_tokens}")
        table.add_row(f"{planned.position:,}", *origin, *numbers, place)
    console.print(table)
    show_shares(console, module, steps, world_size=options.world_size)
    if options.sheet is not None:
        with_image = [sample.planned for sample in samples if sample.planned.source.has_images]
        cells = [
            cell_of(
                planned.source.read(planned.index), title=f"{planned.source.language} {sample.key}"
            )
            for sample in samples
            if (planned := sample.planned).source.has_images and not sample.reason
        ]
        write_sheet(options.sheet, cells, decode_image)
        console.print(f"{len(cells)} of {len(with_image)} images written to {options.sheet}")


def show_shares(
    console: Console, module: "MixtureDataModule", steps: range, *, world_size: int
) -> None:
    """Print the samples and tokens of every source and language, and their shares."""
    from datamodules.inspection import stream_summary as stream_view

    counts = stream_view.count_sources(module.data, steps)
    table = Table(title=f"shares of {_format_steps(steps)}")
    for name in ("source", "language"):
        table.add_column(name, overflow="fold")
    for name in ("samples", "share", "expected", "diff", "tokens", "share", "loss tokens", "share",
                 "skipped"):  # fmt: skip
        table.add_column(name, justify="right")
    languages = stream_view.by_language(counts)
    for name, count in sorted(counts.items()):
        table.add_row(name, count.language, *_format_counts(count, counts))
    table.add_section()
    for language, count in sorted(languages.items()):
        table.add_row("all", language, *_format_counts(count, languages))
    console.print(table)
    packing = stream_view.packing(module.data, steps, world_size=world_size)
    epochs = ", ".join(f"{n} {e:.2f}" for n, e in module.stream.epochs(steps.stop).items())
    basis = (
        f" (computed from {packing.num_steps} of them)" if packing.num_steps < len(steps) else ""
    )
    console.print(
        f"micro-batches per step and rank (world size {world_size}): "
        f"{packing.micro_batches_per_step:g}; density {100 * packing.density:.1f} %{basis}; "
        f"epochs completed: {epochs}",
        highlight=False,
    )


def _format_counts(count: "SourceCount", counts: "dict[str, SourceCount]") -> tuple[str, ...]:
    def share(value: int, name: str) -> tuple[str, str]:
        total = sum(getattr(other, name) for other in counts.values())
        return f"{value:,}", f"{100 * value / max(1, total):.2f} %"

    return (
        *share(count.num_samples, "num_samples"),
        f"{count.expected:,.1f}",
        f"{count.num_samples - count.expected:+.1f}",
        *share(count.num_tokens, "num_tokens"),
        *share(count.num_loss_tokens, "num_loss_tokens"),
        f"{count.num_skipped or ''}",
    )


def _parse_range(text: str) -> range:
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise argparse.ArgumentTypeError(f"'{text}' is not a range A:B with A < B, such as 0:100")
    return range(int(start), int(stop))


def _check_steps(steps: range, num_steps: int) -> range:
    if steps.start < 0 or steps.stop > num_steps:
        raise ConfigError(f"{_format_steps(steps)}: the steps of the stage are 0..{num_steps - 1}")
    return steps


def _format_steps(steps: range) -> str:
    last = steps.stop - 1
    return f"step {last}" if len(steps) == 1 else f"steps {steps.start}..{last}"


def _reject_image(image: bytes) -> "torch.Tensor":
    raise RuntimeError(f"unexpected request to encode an image of {len(image)} bytes")


@catch_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    args = build_parser().parse_args(argv)
    options = InspectOptions(
        stage=args.stage,
        step=args.at,
        steps=args.range,
        sheet=args.sheet,
        world_size=args.world_size,
    )
    console = Console(width=None if sys.stdout.isatty() else _TABLE_WIDTH)
    inspect(request_of(args), options, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

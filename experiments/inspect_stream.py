"""Look into a training stream without training: what makes up a step, and any stretch of steps.

Stands here and not in datamodules/, because it starts from an experiment's configuration, and
imports point down. Sources, lengths and the batch plan are those of the real run; no weights are
read and no features computed.

python -m experiments.inspect_stream --exp mix_ablation --only share20_s0 --at 12
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.errors import ConfigError, unknown_name
from core.process.command import clear_errors

if TYPE_CHECKING:
    import torch

    from datamodules.inspection.stream_summary import SourceCount
    from datamodules.mixture_datamodule import MixtureDataModule
    from pipeline.stages.graph import Graph, StageNode

_WIDTH = 150
"""Columns of a table that goes to a file."""
_STAGES = ("align", "instruct")
_EPILOG = """examples:
  python -m experiments.inspect_stream --exp mix_ablation --only share20_s0
      the first step of stage 2 of the cell with 20 % Basque: sample by sample
  python -m experiments.inspect_stream --exp mix_ablation --only share20_s0 --at 350 --sheet a.png
      step 350, and its images with their first question
  python -m experiments.inspect_stream --exp mix_ablation --only share20_s0 --range 0:700
      all of the stage: the shares that come out beside the shares that were asked for
  python -m experiments.inspect_stream --exp smoke --stage align --at 5 --world-size 4
      how four ranks would divide a step of stage 1

how to read the tables:
  position     place in the whole stream; the same sample stands there on any hardware
  loss tokens  tokens on which the loss is computed
  rank/mb/row  who computes it: rank, micro-batch, packed row. '-': left out, with the reason
  asked        samples that the configuration asks for; 'off' is how far the stream is from it.
               The shares of components are exact to a sample at any step, the language within a
               parallel component in whole epochs
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.inspect_stream",
        description="Show which samples make up a training step, from where, and in what shares.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--exp", required=True, help="name of the experiment (experiments.run --list)")
    add("--profile", default="embedded", help="configuration in configs/ (default: embedded)")
    add("--only", nargs="+", default=[], metavar="PART", help="part of the id of one cell")
    add("--set", nargs="+", default=[], metavar="A.B=C", dest="overrides", help="change a value")
    add("--seeds", type=int, default=1, help="training seeds per cell (default: 1)")
    add("--stage", default="instruct", help="align or instruct (default: instruct)")
    add("--at", type=int, metavar="STEP", help="a step to show (default: 0, without --range)")
    add("--range", type=_steps, metavar="A:B", help="steps A..B-1 to sum up")
    add("--sheet", type=Path, metavar="PNG", help="write the images of step --at there")
    add("--world-size", type=int, default=1, help="ranks to plan for (default: 1)")
    add("--root", type=Path, default=Path("mlruns"), help="where lengths are kept, as in runs")
    return parser


def run(args: argparse.Namespace, console: Console) -> None:
    """Print what the command line asks for.

    Raises:
        IrudimenError: an unknown name, a step that there is not, data that can't be used.
    """
    from experiments.planning import make_plan  # heavy: torch and friends

    if args.stage not in _STAGES:
        raise ConfigError(unknown_name("stage", args.stage, _STAGES))
    if args.world_size < 1:
        raise ConfigError(f"--world-size {args.world_size}, expected at least 1")
    if args.sheet and args.range and args.at is None:
        raise ConfigError("--sheet draws one step; say which with --at")
    node = find_stage(make_plan(args).graph, args.stage)
    module = open_stream(node, root=args.root)
    if args.at is not None or args.range is None:
        show_step(console, module, node.title, args)
    if args.range is not None:
        steps = _within(args.range, module.num_steps)
        show_shares(console, module, steps, world_size=args.world_size)


def find_stage(graph: "Graph", kind: str) -> "StageNode":
    """The one training stage of a kind that the cells share.

    Raises:
        ConfigError: there is none, or several.
    """
    addresses = {stages[kind]: cell for cell, stages in graph.cells.items() if kind in stages}
    if not addresses:
        raise ConfigError(f"no cell has a stage '{kind}'; take another --stage or --exp")
    if len(addresses) > 1:
        names = ", ".join(addresses.values())
        raise ConfigError(
            f"{len(addresses)} different '{kind}' stages are meant: {names}; name one with --only"
        )
    return graph.nodes[next(iter(addresses))]


def open_stream(node: "StageNode", *, root: Path) -> "MixtureDataModule":
    """The DataModule of a stage, as the stage itself opens it but for the images."""
    from core.chat.format import TEMPLATES, ChatFormat, load_tokenizer
    from datamodules.mixture_datamodule import MixtureDataModule
    from models.towers.vision_tower import count_image_tokens
    from pipeline.stages.specs import TrainSpec

    spec = node.spec
    if not isinstance(spec, TrainSpec):
        raise TypeError(f"stage '{node.kind}' trains nothing")
    chat = ChatFormat(
        load_tokenizer(spec.model.language_model.path, revision=spec.model.language_model.revision),
        TEMPLATES[spec.model.template],
        num_image_tokens=count_image_tokens(spec.model.tower),
    )
    module = MixtureDataModule(
        # Noise is added to features, of which there are none here.
        dataclasses.replace(spec.stream, feature_noise_std=0.0),
        chat=chat,
        num_steps=spec.num_steps,
        cache_dir=root / "cache",
        transform=_no_pixels,
    )
    module.setup()
    return module


def show_step(
    console: Console, module: "MixtureDataModule", title: str, args: argparse.Namespace
) -> None:
    """One step, sample by sample, and its sums."""
    from datamodules.inspection import stream_summary as stream_view
    from datamodules.inspection.contact_sheet import cell_of, write_sheet
    from models.towers.image_transform import decode_image

    step = args.at or 0
    steps = _within(range(step, step + 1), module.num_steps)
    samples = stream_view.place_samples(module.data, step, world_size=args.world_size)
    table = Table(title=f"{title}: step {step} of {module.num_steps}")
    for name in ("position", "source", "language", "key", "tokens", "loss tokens", "rank/mb/row"):
        is_number = name in ("position", "tokens", "loss tokens")
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for sample in samples:
        slot = sample.planned
        place = f"{sample.rank}/{sample.micro_batch}/{sample.row}"
        place = f"- {escape(sample.reason)}" if sample.reason else place
        origin = (slot.source.name, slot.source.language, escape(sample.key))
        numbers = (f"{slot.num_tokens}", f"{sample.num_loss_tokens}")
        table.add_row(f"{slot.position:,}", *origin, *numbers, place)
    console.print(table)
    show_shares(console, module, steps, world_size=args.world_size)
    if args.sheet is not None:
        with_image = [sample.planned for sample in samples if sample.planned.source.has_images]
        cells = [
            cell_of(slot.source.read(slot.index), title=f"{slot.source.language} {sample.key}")
            for sample in samples
            if (slot := sample.planned).source.has_images and not sample.reason
        ]
        write_sheet(args.sheet, cells, decode_image)
        console.print(f"{len(cells)} of {len(with_image)} images are on {args.sheet}")


def show_shares(
    console: Console, module: "MixtureDataModule", steps: range, *, world_size: int
) -> None:
    """What every source and language gives to some steps, beside what was asked for."""
    from datamodules.inspection import stream_summary as stream_view

    counts = stream_view.count_sources(module.data, steps)
    table = Table(title=f"shares of {_name(steps)}")
    for name in ("source", "language"):
        table.add_column(name, overflow="fold")
    for name in ("samples", "share", "asked", "off", "tokens", "share", "loss tokens", "share",
                 "left out"):  # fmt: skip
        table.add_column(name, justify="right")
    languages = stream_view.by_language(counts)
    for name, count in sorted(counts.items()):
        table.add_row(name, count.language, *_numbers(count, counts))
    table.add_section()
    for language, count in sorted(languages.items()):
        table.add_row("all", language, *_numbers(count, languages))
    console.print(table)
    packing = stream_view.packing(module.data, steps, world_size=world_size)
    epochs = ", ".join(f"{n} {e:.2f}" for n, e in module.stream.epochs(steps.stop).items())
    planned = f" ({packing.num_steps} of them planned)" if packing.num_steps < len(steps) else ""
    console.print(
        f"micro-batches per step on each rank (of {world_size}): "
        f"{packing.micro_batches_per_step:g}; density {100 * packing.density:.1f} %{planned}; "
        f"epochs up to here: {epochs}",
        highlight=False,
    )


def _numbers(count: "SourceCount", counts: "dict[str, SourceCount]") -> tuple[str, ...]:
    def share(value: int, name: str) -> tuple[str, str]:
        total = sum(getattr(other, name) for other in counts.values())
        return f"{value:,}", f"{100 * value / max(1, total):.2f} %"

    return (
        *share(count.num_samples, "num_samples"),
        f"{count.expected:,.1f}",
        f"{count.num_samples - count.expected:+.1f}",
        *share(count.num_tokens, "num_tokens"),
        *share(count.num_loss_tokens, "num_loss_tokens"),
        f"{count.num_left_out or ''}",
    )


def _steps(text: str) -> range:
    start, colon, stop = text.partition(":")
    if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise argparse.ArgumentTypeError(f"'{text}' is no range A:B with A < B, such as 0:100")
    return range(int(start), int(stop))


def _within(steps: range, num_steps: int) -> range:
    if steps.start < 0 or steps.stop > num_steps:
        raise ConfigError(f"{_name(steps)}: the stage has the steps 0..{num_steps - 1}")
    return steps


def _name(steps: range) -> str:
    last = steps.stop - 1
    return f"step {last}" if len(steps) == 1 else f"steps {steps.start}..{last}"


def _no_pixels(image: bytes) -> "torch.Tensor":
    raise RuntimeError(f"an image of {len(image)} bytes was to be encoded; only plans are shown")


@clear_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Show."""
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    run(build_parser().parse_args(argv), console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

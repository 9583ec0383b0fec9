"""Chat with a trained cell about an image, in the terminal or on a local web page.

python -m experiments.chat --run CELL --image FILE --ask "Zer da hau?"
"""

from core.process.command import catch_user_errors

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from core.errors import ConfigError
from core.process.options import given_path, port_number, whole_number
from experiments.cli import add_grid_options, request_of

if TYPE_CHECKING:
    from serving.cell import TrainedCell
    from serving.talker import Talker

_MAX_CELLS = 2
_EPILOG = """examples:
  python -m experiments.chat --run share40_txt --image photo.jpg --ask "Zer da hau?"
  python -m experiments.chat --run share40_txt --image photo.jpg
  python -m experiments.chat --run share0_txt --run share40_txt --page

Pass --exp, --profile, --set and --seeds as in the run that trained the cell.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.chat",
        description="Ask a trained cell about an image. The cell answers as in its evaluation,\n"
        "with greedy decoding and the same prompts.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_grid_options(parser, experiment="mix_ablation", omit=("--only",))
    add = parser.add_argument_group("chat options").add_argument
    add(
        "--run",
        action="append",
        metavar="CELL",
        help="cell id or a unique part of it; repeat the option to compare two cells",
    )
    add(
        "--model",
        type=given_path,
        metavar="FOLDER",
        help="export in our own format (experiments.export --to irudimen) instead of --run",
    )
    add(
        "--image",
        type=given_path,
        metavar="FILE",
        help="image to ask about; required without --page",
    )
    add("--ask", metavar="TEXT", help="ask one question and exit (default: interactive)")
    add(
        "--language",
        default="",
        metavar="CODE",
        help="language of the prompts and the page (default: the target language)",
    )
    add(
        "--style",
        default="",
        metavar="NAME",
        help="prompt style from languages/*/prompts.yaml (default: that of the cell's evaluation)",
    )
    add(
        "--max-new-tokens",
        type=whole_number(1),
        default=0,
        metavar="N",
        help="maximum length of an answer (default: that of the cell's evaluation)",
    )
    add(
        "--remember",
        action="store_true",
        help="send the earlier questions and answers with every question; they change its answer "
        "(default: every question alone, as in the evaluation)",
    )
    add("--page", action="store_true", help="serve a local web page instead of the terminal")
    add("--port", type=port_number, default=7860, help="port of the web page (default: 7860)")
    return parser


def find_chat_cells(args: argparse.Namespace) -> "tuple[list[TrainedCell], str]":
    """Return the cells of `--run` and the language of the conversation.

    Raises:
        ConfigError: If there are too many cells, or one of them is unknown or ambiguous.
    """
    if len(args.run) > _MAX_CELLS:
        raise ConfigError(f"--run names {len(args.run)} cells; at most {_MAX_CELLS} are supported")
    from experiments.run_steps.planning import make_plan  # loads torch
    from serving.cell import find_cells

    request = request_of(args)
    cells = find_cells(make_plan(request), args.run, root=request.root)
    return cells, args.language or cells[0].config.languages.target


def load_chat(args: argparse.Namespace) -> "tuple[list[Talker], str, str]":
    """Load what answers.

    Returns:
        What answers, the language of the conversation, and the manifest of the benchmark with
        example images; empty for `--model`, which needs no data.

    Raises:
        ConfigError: If not exactly one of --run and --model is given.
    """
    if bool(args.run) == bool(args.model):
        raise ConfigError("give either --run CELL or --model FOLDER")
    from datamodules.shards.manifest import SUFFIX
    from serving.own_format import describe_own
    from serving.talker import load_own_talker, load_talkers

    if args.model:
        language = args.language or describe_own(args.model).languages[1]
        talker = load_own_talker(
            args.model, language=language, style=args.style, max_new_tokens=args.max_new_tokens
        )
        return [talker], language, ""
    cells, language = find_chat_cells(args)
    talkers = load_talkers(
        cells, language=language, style=args.style, max_new_tokens=args.max_new_tokens
    )
    return talkers, language, cells[0].evaluation.benchmarks[0] + SUFFIX


def chat_in_terminal(
    console: Console,
    talkers: "Sequence[Talker]",
    image: bytes,
    *,
    question: str | None = None,
    remembers: bool = False,
) -> None:
    """Answer one question, or without one, read questions until an empty line.

    Args:
        console: Where to print and to read.
        talkers: The cells that answer.
        image: The encoded image.
        question: The only question; None to read several.
        remembers: Send the earlier turns with every question.
    """
    from core.samples import Role, Turn

    if not question:
        console.print("[dim]An empty line ends the chat.[/]")
    history: dict[str, list[Turn]] = {talker.name: [] for talker in talkers}
    while text := question or _read_question(console):
        for talker in talkers:
            turns = history[talker.name] if remembers else []
            turns.append(Turn(role=Role.USER, content=text))
            answer = talker.ask(image, turns)
            # A turn of the next prompt may not be empty.
            turns.append(Turn(role=Role.ASSISTANT, content=answer.text or "-"))
            name = f"[dim]{escape(talker.name)}:[/] " if len(talkers) > 1 else ""
            note = " [dim](truncated at --max-new-tokens)[/]" if answer.is_truncated else ""
            console.print(f"{name}{escape(answer.text)}{note}", soft_wrap=True, highlight=False)
        if question:
            return


def _read_question(console: Console) -> str:
    try:
        return console.input("[bold]>[/] ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


def _read_image(path: Path | None) -> bytes:
    if path is None:
        raise ConfigError("no image; pass one with --image FILE, or use --page")
    if not path.is_file():
        raise ConfigError(f"--image {path}: the file does not exist")
    return path.read_bytes()


@catch_user_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    console = Console(stderr=False)
    args = build_parser().parse_args(arguments)
    if args.ask is not None and not args.ask.strip():
        raise ConfigError("--ask is empty; write a question, or leave it out for several questions")
    image = b"" if args.page else _read_image(args.image)
    talkers, language, benchmark = load_chat(args)
    if args.page:
        from serving.chat_page.example_images import example_images
        from serving.chat_page.server import serve_page  # loads the web server, only needed here

        examples = example_images(Path(benchmark)) if benchmark else []
        serve_page(talkers, console, language=language, port=args.port, examples=examples)
    else:
        import torch

        with torch.no_grad():
            chat_in_terminal(console, talkers, image, question=args.ask, remembers=args.remember)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Talk to a trained cell: `python -m experiments.chat --run CELL --image FILE --ask "Zer da hau?"`.

In the terminal, or with --page on a small page of this machine, two cells side by side.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from core.chat.tokens import IMAGE_MARK
from core.errors import ConfigError, DataError
from core.process.command import clear_errors
from core.samples import Role, Turn
from evaluation.answerers.vlm import VlmAnswerer
from evaluation.benchmarks.items import Benchmark
from evaluation.benchmarks.prompting import BARE_STYLE, load_prompts
from evaluation.benchmarks.questions import Question
from pipeline.launchers.devices import compute_device
from pipeline.stages.builders import VlmParts
from serving.cell import add_grid_options, find_cells, load_cell

_MAX_CELLS = 2
_EPILOG = """examples:
  python -m experiments.chat --run share40_txt --image photo.jpg --ask "Zer da hau?"
  python -m experiments.chat --run share40_txt --image photo.jpg
  python -m experiments.chat --run share0_txt --run share40_txt --page
"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a cell said."""

    cell: str
    text: str
    seconds: float
    num_tokens: int
    is_truncated: bool


class Talker:
    """One cell that answers as in its evaluation: greedily, with the same prompts."""

    def __init__(self, name: str, parts: VlmParts, *, max_new_tokens: int, template: str) -> None:
        """Wrap a loaded cell; `template` holds {question}."""
        self.name = name
        self._parts, self._template = parts, template
        self._answerer = VlmAnswerer(
            parts.model, parts.chat, parts.images, max_new_tokens=max_new_tokens, batch_size=1
        )

    def ask(self, image: bytes, turns: Sequence[Turn]) -> Answer:
        """Answer the last of the user's turns.

        Raises:
            DataError: an image that can't be decoded, or turns that don't alternate.
        """
        question = Question(turns=tuple(self._with_image(turns)), image=image)
        begin = time.perf_counter()
        (reply,) = self._answerer.answer([question])
        return Answer(
            cell=self.name,
            text=reply.text,
            seconds=time.perf_counter() - begin,
            num_tokens=reply.num_tokens,
            is_truncated=reply.is_truncated,
        )

    def _with_image(self, turns: Sequence[Turn]) -> list[Turn]:
        roles = [turn.role for turn in turns]
        if not roles or any(
            role is not (Role.ASSISTANT if at % 2 else Role.USER) for at, role in enumerate(roles)
        ):
            raise DataError("turns must alternate, the user's first", "turns")
        if roles[-1] is not Role.USER or any(not turn.content.strip() for turn in turns):
            raise DataError("the last turn must be a question, and none may be empty", "turns")
        asked = [
            dataclasses.replace(turn, content=self._template.replace("{question}", turn.content))
            if turn.role is Role.USER
            else turn
            for turn in turns
        ]
        first = dataclasses.replace(asked[0], content=f"{IMAGE_MARK}\n{asked[0].content}")
        return [first, *asked[1:]]


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.chat",
        description="Ask a trained cell about an image; as in the evaluation, greedily.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--run", required=True, action="append", metavar="CELL",
        help="id of a cell, or a part that only it has; twice to compare")  # fmt: skip
    add("--image", type=Path, help="image to talk about")
    add("--ask", metavar="TEXT", help="one question; without it you are asked for them")
    add("--language", default="", help="of prompts and page (default: the target language)")
    add(
        "--style",
        default=BARE_STYLE,
        help="prompt style of languages/*/prompts.yaml (default: bare)",
    )
    add("--max-new-tokens", type=int, default=64, help="longest answer (default: 64)")
    add("--page", action="store_true", help="a page in the browser instead of the terminal")
    add("--port", type=int, default=7860, help="port of the page (default: 7860)")
    add_grid_options(parser)
    return parser


def load_talkers(options: argparse.Namespace) -> tuple[list[Talker], str]:
    """The cells that were named, loaded, and the language.

    Raises:
        ConfigError: too many cells, or a prompt style that the language lacks.
        CheckpointError: a cell that has not been trained.
    """
    if len(options.run) > _MAX_CELLS:
        raise ConfigError(f"{len(options.run)} cells; --run takes one or {_MAX_CELLS} to compare")
    cells = find_cells(options, options.run)
    language = options.language or cells[0].config.languages.target
    book = load_prompts([language], style=options.style)
    template = book.templates[language][Benchmark.VQA]
    device = compute_device(cells[0].config.trainer.accelerator)
    talkers = [
        Talker(
            cell.cell_id,
            load_cell(cell, device),
            max_new_tokens=options.max_new_tokens,
            template=template,
        )
        for cell in cells
    ]
    return talkers, language


def talk(options: argparse.Namespace, console: Console) -> None:
    """In the terminal, until an empty line.

    Raises:
        ConfigError: no image.
    """
    if options.image is None or not options.image.is_file():
        raise ConfigError(f"no image '{options.image}'; name one with --image, or use --page")
    image = options.image.read_bytes()
    talkers, _ = load_talkers(options)
    history: dict[str, list[Turn]] = {talker.name: [] for talker in talkers}
    while True:
        question = options.ask or _read_question(console)
        if not question:
            return
        for talker in talkers:
            turns = history[talker.name]
            turns.append(Turn(role=Role.USER, content=question))
            answer = talker.ask(image, turns)
            # What was not said can't be a turn of the next prompt.
            said = answer.text or "-"
            turns.append(Turn(role=Role.ASSISTANT, content=said))
            name = f"[dim]{escape(talker.name)}:[/] " if len(talkers) > 1 else ""
            cut = " [dim](cut at --max-new-tokens)[/]" if answer.is_truncated else ""
            console.print(f"{name}{escape(answer.text)}{cut}", soft_wrap=True, highlight=False)
        if options.ask:
            return


def _read_question(console: Console) -> str:
    try:
        return console.input("[bold]>[/] ").strip()
    except (EOFError, KeyboardInterrupt):
        return ""


@clear_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Talk, in the terminal or on a page."""
    console = Console(stderr=False)
    options = build_parser().parse_args(arguments)
    if options.page:
        from serving.chat_page.server import serve_page  # a web server is needed for this alone

        serve_page(options, console)
    else:
        with torch.no_grad():
            talk(options, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A trained cell that answers questions about an image in a conversation."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from configuration.trainer import Accelerator
from core.chat.tokens import IMAGE_MARK
from core.config import load_config
from core.errors import DataError
from core.samples import Role, Turn
from evaluation.asking import ASKING_FILE, AskingConfig
from evaluation.benchmarks.items import Benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits
from pipeline.answerers import make_answerer
from pipeline.assemble_trained import ModelParts
from pipeline.device import compute_device
from serving.cell import TrainedCell, load_cell
from serving.own_format import describe_own, load_own


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ChatAnswer:
    """The answer of a cell to one question."""

    cell: str
    text: str
    seconds: float
    num_tokens: int
    is_truncated: bool


class Talker:
    """A cell that answers as in its evaluation: greedy decoding with the same prompt template."""

    def __init__(self, name: str, parts: ModelParts, *, max_new_tokens: int, template: str) -> None:
        """Wrap a loaded cell; `template` contains the placeholder {question}."""
        self.name = name
        self._template = template
        self._max_new_tokens = max_new_tokens
        self._answerer = make_answerer(parts, batch_size=1, limits=ReplyLimits())

    def ask(self, image: bytes, turns: Sequence[Turn]) -> ChatAnswer:
        """Answer the last turn, which must be the user's.

        Raises:
            DataError: If the image can't be decoded, or the turns don't alternate.
        """
        question = VisualQuestion(
            turns=tuple(self._with_image(turns)), image=image, max_new_tokens=self._max_new_tokens
        )
        begin = time.perf_counter()
        (reply,) = self._answerer.answer([question])
        return ChatAnswer(
            cell=self.name,
            text=reply.text,
            seconds=time.perf_counter() - begin,
            num_tokens=reply.num_tokens,
            is_truncated=reply.is_truncated,
        )

    def _with_image(self, turns: Sequence[Turn]) -> list[Turn]:
        roles = [turn.role for turn in turns]
        if not roles or any(
            role is not (Role.ASSISTANT if index % 2 else Role.USER)
            for index, role in enumerate(roles)
        ):
            raise DataError("turns must alternate, starting with the user's", "turns")
        if roles[-1] is not Role.USER or any(not turn.content.strip() for turn in turns):
            raise DataError("the last turn must be a question, and no turn may be empty", "turns")
        formatted = [
            dataclasses.replace(turn, content=self._template.replace("{question}", turn.content))
            if turn.role is Role.USER
            else turn
            for turn in turns
        ]
        first = dataclasses.replace(formatted[0], content=f"{IMAGE_MARK}\n{formatted[0].content}")
        return [first, *formatted[1:]]


def load_talkers(
    cells: Sequence[TrainedCell], *, language: str, style: str, max_new_tokens: int
) -> list[Talker]:
    """Load cells for a conversation in one language.

    Args:
        cells: Cells of one grid.
        language: Language of the prompt template.
        style: Prompt style in languages/*/prompts.yaml; empty for that of the cells' evaluation.
        max_new_tokens: Maximum length of an answer; 0 for that of the cells' evaluation.

    Raises:
        ConfigError: If the language lacks the prompt style.
        CheckpointError: If a cell has not been trained.
    """
    book = load_prompts([language], style=style or cells[0].config.evaluate.prompt_style)
    template = book.templates[language][Benchmark.VQA]
    device = compute_device(cells[0].config.trainer.accelerator)
    return [
        Talker(
            cell.cell_id,
            load_cell(cell, device),
            max_new_tokens=max_new_tokens or cell.config.evaluate.max_new_tokens,
            template=template,
        )
        for cell in cells
    ]


def load_own_talker(folder: Path, *, language: str, style: str, max_new_tokens: int) -> Talker:
    """Load a folder of `serving.own_format` for a conversation; see `load_talkers`.

    Raises:
        ConfigError: If the language lacks the prompt style.
        CheckpointError: If the folder is no export, or damaged.
    """
    described = describe_own(folder)
    asking = load_config(AskingConfig, folder / ASKING_FILE)
    book = load_prompts([language], style=style or asking.prompt_style)
    return Talker(
        described.cell,
        load_own(folder, compute_device(Accelerator.AUTO)),
        max_new_tokens=max_new_tokens or asking.max_new_tokens,
        template=book.templates[language][Benchmark.VQA],
    )

"""Stage runs of a subject: interrupted and resumed, with adapters, and exported."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.model_classes.processes import KIND, WHOLE, train
from benchmarks.model_classes.subjects import ADAPTERS, Subject
from callbacks.checkpoints import latest_checkpoint
from core.process.stop import StopFlag
from core.samples import Role, StepBatch, Turn
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits
from lightning_modules.vlm_module import VlmModule
from pipeline.answerers import make_answerer
from pipeline.launchers import worker
from pipeline.store.store import StageFolder
from serving.cell import TrainedCell, find_cells, load_cell
from serving.hugging_face_export import export_cell
from tests.support import ranks, ready_world
from tests.support import small_world as worlds
from tests.support.ranks import World

_LOST_AT = 7
"""Step in which a run is interrupted without notice; its last checkpoint is two steps older."""
_QUESTIONS = ("Zer da hau?", "What is this?")
_NUM_IMAGES, _NUM_NEW = 10, 8


def measure_runs(subject: Subject) -> dict[str, Any]:
    """Train a subject in several ways, in this process, and compare the results.

    Returns:
        `resume`, `lora_resume`, `qlora_resume`: whether the weights of a run that was interrupted
        without notice and resumed are those of an uninterrupted one, byte for byte; `exports`:
        tuning -> format -> see `_export`.
    """
    full = subject.world()
    whole = train(full, WHOLE)
    found: dict[str, Any] = {"resume": _is_resumed(full, whole, "interrupted")}
    exports = {"full": _exports(subject, WHOLE)}
    for tuning in ("lora", "qlora"):
        settings = (f"instruct.tuning.kind={tuning}", *ADAPTERS, *_adapter_policy(subject))
        adapted = subject.world(*settings)
        whole = train(adapted, tuning)
        found[f"{tuning}_resume"] = _is_resumed(adapted, whole, f"{tuning}_interrupted")
        exports[tuning] = _exports(subject, tuning, *settings)
    return found | {"exports": exports}


def _adapter_policy(subject: Subject) -> tuple[str, ...]:
    """Return the settings under which adapters can be exported alone.

    PEFT stores whole modules; a parameter outside of a module (LLaVA-OneVision's `image_newline`)
    is frozen with the connector.
    """
    if subject.name == "llava_onevision":
        return ("instruct.policy={connector: false, language_model: true}",)
    return ()


def _is_resumed(world: World, whole: StageFolder, root: str) -> bool:
    """Interrupt a run in the middle, resume it, and compare the bytes of its weights."""
    folder = ranks.prepare(world, KIND, root=root, devices=1)
    with _interrupted():
        code = worker._run_attempt(folder, StopFlag())
    saved = latest_checkpoint(folder.checkpoints)
    if code == 0 or saved is None or saved.step >= _LOST_AT:
        raise RuntimeError(f"{folder.path} was not interrupted behind a checkpoint")
    resumed = train(world, root)
    paths = [one.result / "model.safetensors" for one in (whole, resumed)]
    return paths[0].read_bytes() == paths[1].read_bytes()


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Let a training fail in the middle of a step; nothing is saved then."""
    real: Callable[..., None] = VlmModule.training_step

    @functools.wraps(real)
    def training_step(self: VlmModule, batch: StepBatch, batch_idx: int) -> None:
        if batch.step == _LOST_AT:
            raise RuntimeError("interrupted by the measurement")
        real(self, batch, batch_idx)

    VlmModule.training_step = training_step  # type: ignore[method-assign]
    try:
        yield
    finally:
        VlmModule.training_step = real  # type: ignore[method-assign]


def _exports(subject: Subject, root: str, *settings: str) -> dict[str, Any]:
    """Export a trained cell in every format that it has; format -> what `_export` measures."""
    plan = subject.plan(root, *settings)
    (cell,) = find_cells(plan, [worlds.CELL], root=Path(root))
    formats = ("hf", "peft") if root == "lora" else ("hf",)
    return {name: _export(cell, name, Path(f"export-{root}-{name}")) for name in formats}


def _export(cell: TrainedCell, name: str, folder: Path) -> dict[str, Any]:
    """Export a cell and ask both models the same questions.

    Returns:
        `logits`: largest difference from the trained model that the export's own check found;
        `answers`, `num_answers`, `distinct`: equal greedy answers, all, and different ones.
    """
    is_adapter = name == "peft"
    result = export_cell(cell, folder, dtype="float32", max_shard="5GB", is_adapter=is_adapter)
    parts = load_cell(cell, torch.device("cpu"), is_merged=not is_adapter)
    answerer = make_answerer(parts, batch_size=7, limits=ReplyLimits())
    trained = [reply.text for reply in answerer.answer(_questions())]
    stock = HuggingFaceAnswerer(str(folder), batch_size=4)
    reloaded = [reply.text for reply in stock.answer(_questions())]
    return {
        "logits": result.report.logits,
        "answers": sum(a == b for a, b in zip(trained, reloaded, strict=True)),
        "num_answers": len(trained),
        "distinct": len(set(trained)),
    }


def _questions() -> list[VisualQuestion]:
    """Return the same questions about each of some images."""
    return [
        VisualQuestion(
            turns=(Turn(role=Role.USER, content=f"<image>\n{text}"),),
            image=ready_world.sized_image(number),
            max_new_tokens=_NUM_NEW,
        )
        for text in _QUESTIONS
        for number in range(_NUM_IMAGES)
    ]

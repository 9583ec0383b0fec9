"""Stage runs of a subject: interrupted and resumed, with adapters, and exported."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.model_classes.processes import KIND, WHOLE, train
from benchmarks.model_classes.subjects import Subject
from callbacks.checkpoints import latest_checkpoint
from core.process.stop import StopFlag
from core.samples import Role, StepBatch, Turn
from evaluation.answerers.base import Answerer
from evaluation.answerers.hugging_face import HuggingFaceAnswerer
from evaluation.benchmarks.questions import VisualQuestion
from evaluation.benchmarks.reply_limits import ReplyLimits
from lightning_modules.vlm_module import VlmModule
from pipeline.answerers import make_answerer
from pipeline.assemble import VlmParts
from pipeline.assemble_trained import ModelParts
from pipeline.launchers import worker
from pipeline.store.store import StageFolder
from serving.cell import TrainedCell, find_cells, load_cell
from serving.hugging_face_export import export_cell
from serving.own_format import export_own, load_own
from tests.support import ranks
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
    for kind in subject.earlier_stages:
        if any(node.kind == kind for node in full.graph.nodes.values()):
            train(full, WHOLE, kind=kind)
    whole = train(full, WHOLE)
    found: dict[str, Any] = {"resume": _is_resumed(full, whole, "interrupted")}
    exports = {"full": _exports(subject, "full")}
    for tuning in ("lora", "qlora"):
        settings = subject.adapters(tuning)
        adapted = subject.world(*settings)
        whole = train(adapted, tuning)
        found[f"{tuning}_resume"] = _is_resumed(adapted, whole, f"{tuning}_interrupted")
        exports[tuning] = _exports(subject, tuning, *settings)
    return found | {"exports": exports}


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


def _exports(subject: Subject, tuning: str, *settings: str) -> dict[str, Any]:
    """Export a trained cell in every format that it has; format -> what `_export` measures."""
    root = WHOLE if tuning == "full" else tuning
    plan = subject.plan(root, *settings)
    (cell,) = find_cells(plan, [worlds.CELL], root=Path(root))
    questions = _questions(subject)
    return {
        name: _export(cell, name, Path(f"export-{tuning}-{name}"), questions)
        for name in subject.formats(tuning)
    }


def _export(
    cell: TrainedCell, name: str, folder: Path, questions: list[VisualQuestion]
) -> dict[str, Any]:
    """Export a cell and ask both models the same questions.

    Returns:
        `logits`: largest difference from the trained model that the export's own check found, not
        for our own format, whose check demands equal weights; `answers`, `num_answers`, `distinct`:
        equal greedy answers, all, and different ones.
    """
    found: dict[str, Any] = {}
    is_adapter = name == "peft"
    parts = load_cell(cell, torch.device("cpu"), is_merged=not is_adapter)
    if name == "irudimen":
        export_own(cell, folder, dtype=torch.float32)
        exported: Answerer = _answerer(load_own(folder, torch.device("cpu")))
    else:
        done = export_cell(cell, folder, dtype="float32", max_shard="5GB", is_adapter=is_adapter)
        found["logits"] = done.report.logits
        is_ours = isinstance(parts, VlmParts)
        exported = HuggingFaceAnswerer(str(folder), batch_size=4, resizes_with_pil=is_ours)
    trained = [reply.text for reply in _answerer(parts).answer(questions)]
    reloaded = [reply.text for reply in exported.answer(questions)]
    return found | {
        "answers": sum(a == b for a, b in zip(trained, reloaded, strict=True)),
        "num_answers": len(trained),
        "distinct": len(set(trained)),
    }


def _answerer(parts: ModelParts) -> Answerer:
    return make_answerer(parts, batch_size=7, limits=ReplyLimits())


def _questions(subject: Subject) -> list[VisualQuestion]:
    """Return two questions about each of some images, whose last words differ."""
    words = " ".join(worlds.NAMES).split()
    return [
        VisualQuestion(
            turns=(Turn(role=Role.USER, content=f"<image>\n{text} {words[number % len(words)]}"),),
            image=subject.image(number),
            max_new_tokens=_NUM_NEW,
        )
        for text in _QUESTIONS
        for number in range(_NUM_IMAGES)
    ]

"""A task pack: the data and definitions of all tasks of some manifests, in one folder."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from core.errors import ConfigError, DataError
from core.io.files import atomic_write_text
from core.samples import Role
from datamodules.shards.manifest import Modality, load_manifest
from datamodules.shards.source import Source
from evaluation.benchmarks.items import Benchmark, BenchmarkItem, load_benchmark
from evaluation.benchmarks.prompting import load_prompts
from evaluation.benchmarks.reply_limits import ReplyLimits
from evaluation.export_tasks.data_files import write_questions
from evaluation.export_tasks.harness import Harness
from evaluation.export_tasks.tasks import (
    LM_EVAL_FUNCTIONS,
    LMMS_EVAL_FUNCTIONS,
    WITHOUT_METRIC,
    question_task,
    text_task,
)

_FUNCTION = re.compile(r"^(\w+): function:(\w+)$", re.MULTILINE)
_UNSAFE = re.compile(r"[^a-z0-9_]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackPlan:
    """Manifests and settings of a pack."""

    harness: Harness
    manifests: tuple[Path, ...]
    out: Path
    languages: tuple[str, ...]
    """Languages to write; empty for all of every manifest."""
    style: str
    """Style of the prompts."""
    limits: ReplyLimits


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackTask:
    """A task that was written."""

    name: str
    num_items: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pack:
    """Result of an export."""

    tag: str
    """Name that runs all tasks of the pack."""
    tasks: tuple[PackTask, ...]
    left_out: tuple[str, ...]
    """Questions without a task, and why."""


def write_pack(plan: PackPlan) -> Pack:
    """Write a pack into an empty folder.

    Raises:
        ConfigError: If the folder is not empty, or a manifest has no task for the harness.
        DataError: If a manifest or its data are invalid.
    """
    if plan.out.exists() and any(plan.out.iterdir()):
        raise ConfigError(f"--out {plan.out} is not empty; choose a new folder or remove it")
    tasks, left_out = list[PackTask](), list[str]()
    tag = _safe(f"irudimen_{plan.out.name}")
    for manifest in plan.manifests:
        modality = load_manifest(manifest).modality
        if modality is Modality.BENCHMARK:
            tasks += _write_benchmark(plan, manifest, tag, left_out)
        elif modality is Modality.TEXT and plan.harness is Harness.LM_EVAL:
            tasks.append(_write_text(plan, manifest, tag))
        else:
            raise ConfigError(
                f"{manifest} holds {modality} data, for which {plan.harness} has no task; give a "
                "benchmark" + (" or a text source" if plan.harness is Harness.LM_EVAL else "")
            )
    if not tasks:
        raise ConfigError(f"nothing to export: {'; '.join(left_out)}")
    is_lmms = plan.harness is Harness.LMMS_EVAL
    atomic_write_text(plan.out / "utils.py", LMMS_EVAL_FUNCTIONS if is_lmms else LM_EVAL_FUNCTIONS)
    return Pack(tag=tag, tasks=tuple(tasks), left_out=tuple(left_out))


def _write_benchmark(
    plan: PackPlan, manifest: Path, tag: str, left_out: list[str]
) -> list[PackTask]:
    available = load_manifest(manifest).language.split(",")
    languages = list(plan.languages or available)
    groups: dict[tuple[Benchmark, str], list[BenchmarkItem]] = {}
    for item in load_benchmark(manifest, languages):
        groups.setdefault((item.benchmark, item.language), []).append(item)
    prompts = load_prompts(languages, style=plan.style, limits=plan.limits)
    tasks = []
    for (kind, language), items in groups.items():
        if kind in WITHOUT_METRIC[plan.harness]:
            left_out.append(
                f"{len(items)} questions of kind {kind} in {language}: {plan.harness} has no metric"
            )
            continue
        name = _safe(f"irudimen_{items[0].dataset}_{kind}_{language}")
        file = plan.out / "data" / f"{name}.parquet"
        write_questions(file, items, prompts)
        task = question_task(
            plan.harness,
            kind,
            name=name,
            tag=tag,
            file=str(file.resolve()),
            max_new_tokens=plan.limits.of_kind(kind),
        )
        _write_task(plan.out / f"{name}.yaml", task)
        tasks.append(PackTask(name=name, num_items=len(items)))
    return tasks


def _write_text(plan: PackPlan, manifest: Path, tag: str) -> PackTask:
    source = Source(manifest)
    lines = []
    for number in range(len(source)):
        turns = source.read(number, with_image=False).turns
        text = "\n".join(turn.content for turn in turns if turn.role is Role.TEXT)
        if not text:
            raise DataError(f"{manifest} has no running text; give a text source")
        lines.append(json.dumps({"text": text}, ensure_ascii=False))
    name = _safe(f"irudimen_{source.name}")
    file = plan.out / "data" / f"{name}.jsonl"
    atomic_write_text(file, "\n".join(lines) + "\n")
    _write_task(plan.out / f"{name}.yaml", text_task(name=name, tag=tag, file=str(file.resolve())))
    return PackTask(name=name, num_items=len(lines))


def _write_task(path: Path, task: dict[str, Any]) -> None:
    text = yaml.safe_dump(task, sort_keys=False, allow_unicode=True, width=100)
    atomic_write_text(path, _FUNCTION.sub(r"\1: !function utils.\2", text))


def _safe(name: str) -> str:
    """Return a name that both harnesses accept as a task and on their command lines."""
    return _UNSAFE.sub("_", name.lower()).strip("_")


def run_command(plan: PackPlan, pack: Pack) -> str:
    """Return a command that runs the pack."""
    include = f"--include_path {plan.out} --tasks {pack.tag} --batch_size 1"
    if plan.harness is Harness.LMMS_EVAL:
        names: Sequence[str] = [task.name for task in pack.tasks]
        include = f"--include_path {plan.out} --tasks {','.join(names)} --batch_size 1"
        return (
            "python -m lmms_eval --model llava_hf --model_args "
            f"pretrained=EXPORT,device_map=auto {include} --log_samples --output_path results"
        )
    has_questions = any(path.suffix == ".parquet" for path in (plan.out / "data").iterdir())
    model = "hf-multimodal" if has_questions else "hf"
    template = " --apply_chat_template" if has_questions else ""
    return f"lm_eval --model {model} --model_args pretrained=EXPORT {include}{template}"

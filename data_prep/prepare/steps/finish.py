"""Last step, a single task: manifests, report, items for annotators and the data card."""

import dataclasses
import json
from typing import Any

from core.config import to_plain
from core.errors import DataError
from core.io.files import atomic_write_text
from data_prep.prepare.faults import Ledger, read_ledger
from data_prep.prepare.recipe import Kind
from data_prep.prepare.steps.produce import RECORDS, Produced
from data_prep.prepare.work import COLLECTED, JOINED, PRODUCED, SourcePlan, WorkPlan
from data_prep.shards.folder_metadata import write_metadata
from data_prep.shards.writer import SourceInfo, write_manifest
from datamodules.shards.manifest import SUFFIX, Modality, ShardEntry, load_manifest

REPORT = "report.json"
VALIDATE = "validate"


def finish(plan: WorkPlan) -> dict[str, Any]:
    """Write the results that cover all parts, and return the report.

    Raises:
        DataError: If no row of a source is left.
    """
    report: dict[str, Any] = {"recipe": plan.recipe, "language": plan.language, "sources": {}}
    for source in plan.sources:
        steps, shards, chosen = _merge_parts(plan, source)
        report["sources"][source.name] = {name: ledger.dump() for name, ledger in steps.items()}
        if not shards:
            raise DataError(
                f"nothing is left of {source.name}: {dict(steps['collect'].dropped)}, "
                f"{dict(steps['produce'].dropped)}; correct the source or relax the filters",
                "empty",
            )
        for info in _make_infos(plan, source, steps):
            write_manifest(plan.out, info, shards)
        if chosen:
            lines = (json.dumps(one, ensure_ascii=False) for one in chosen)
            path = plan.out / VALIDATE / f"{source.name}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write_text(path, "".join(f"{line}\n" for line in lines))
    _write_benchmarks_manifest(plan)
    atomic_write_text(plan.out / REPORT, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    write_metadata(plan.out, plan.recipe)
    return report


def _write_benchmarks_manifest(plan: WorkPlan) -> None:
    """Write one manifest over all benchmarks, for the evaluation of a grid."""
    names = [s.name for s in plan.sources if s.recipe.kind is Kind.BENCHMARK]
    found = [load_manifest(plan.out / f"{name}{SUFFIX}") for name in names]
    if not found:
        return
    info = SourceInfo(
        name=f"{plan.recipe}_benchmarks",
        language=found[0].language,
        modality=Modality.BENCHMARK,
        record="",
        licence="; ".join(f"{one.name}: {one.licence}" for one in found),
        provenance={"benchmarks": names},
    )
    write_manifest(plan.out, info, [shard for one in found for shard in one.shards])


def _merge_parts(
    plan: WorkPlan, source: SourcePlan
) -> tuple[dict[str, Ledger], list[ShardEntry], list[dict[str, str]]]:
    steps = {"collect": Ledger(), "produce": Ledger()}
    shards, chosen = list[ShardEntry](), list[dict[str, str]]()
    joined = (plan.work / source.name / JOINED).with_suffix(".json")
    if source.is_joined:
        found = read_ledger(joined)
        steps = {"published translation": found, **steps}
    for part in range(len(source.parts)):
        folder = plan.folder(source, part)
        steps["collect"].merge(read_ledger(folder / COLLECTED))
        produced = Produced.load(folder / PRODUCED)
        steps["produce"].merge(produced.ledger)
        shards += produced.shards
        chosen += produced.chosen
    for name, ledger in steps.items():
        ledger.check(f"{source.name}, {name}")
    if steps["collect"].num_out != steps["produce"].num_in:
        raise DataError(
            f"{source.name}: collect wrote {steps['collect'].num_out} items, produce read "
            f"{steps['produce'].num_in}; remove {plan.work / source.name} and run again"
        )
    return steps, shards, chosen


def _make_infos(plan: WorkPlan, source: SourcePlan, steps: dict[str, Ledger]) -> list[SourceInfo]:
    """Return a manifest per language over the same shards, or a single one for a benchmark."""
    recipe = source.recipe
    published = recipe.published.get(source.target)
    licence = recipe.licence
    if published is not None and published.licence:
        licence = f"{licence}; translation: {published.licence}"
    config = to_plain(plan.config.translate)
    if config["endpoint"]:
        config["endpoint"] = {name: config["endpoint"][name] for name in ("model",)}
    provenance = {
        "place": recipe.place,
        "files": sorted({part.file for part in source.parts}),  # hub files include their commit
        "attribution": recipe.attribution,
        "translation": config if source.is_translated else to_plain(published),
        "left_out": {name: dict(ledger.dropped) for name, ledger in steps.items()},
    }
    common: dict[str, Any] = {"licence": licence, "provenance": provenance}
    if recipe.kind is Kind.BENCHMARK:
        info = SourceInfo(
            name=source.name,
            language=",".join(source.languages),
            modality=Modality.BENCHMARK,
            record="",
            **common,
        )
        return [info]
    is_text = not {"image", "image_url"} & recipe.columns.keys()
    base = SourceInfo(
        name="",
        language="",
        modality=Modality.TEXT if is_text else Modality.IMAGE_TEXT,
        record="",
        **common,
    )
    return [
        dataclasses.replace(
            base,
            name=f"{source.title}_{language}",
            language=language,
            record=f"{RECORDS}.{language}",
        )
        for language in source.languages
    ]

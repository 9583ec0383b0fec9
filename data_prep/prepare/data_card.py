"""Data card of prepared data, generated from its manifests and its report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.files import atomic_write_text
from core.io.reading import reading
from datamodules.shards.manifest import SUFFIX, Manifest, load_manifest

CARD_NAME = "README.md"
_REPORT = "report.json"


def write_card(folder: Path) -> Path:
    """Write the card next to the manifests of a folder and return its path.

    Raises:
        DataError: If the folder has no manifests.
    """
    manifests = [load_manifest(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    if not manifests:
        raise DataError(f"no manifests in {folder}; name a folder that data_prep.prepare wrote")
    report = folder / _REPORT
    steps = {}
    if report.is_file():
        with reading(report, fix="run data_prep.prepare again, which writes it"):
            steps = json.loads(report.read_text(encoding="utf-8"))["sources"]
    languages = sorted({code for m in manifests for code in m.language.split(",")})
    lines = ["---", "language:", *(f"- {code}" for code in languages), "---", ""]
    lines += [f"# {folder.name}", "", *_source_rows(manifests), "", *_provenance_lines(manifests)]
    lines += _dropped_rows(steps)
    atomic_write_text(folder / CARD_NAME, "\n".join(lines).rstrip() + "\n")
    return folder / CARD_NAME


def _source_rows(manifests: Sequence[Manifest]) -> list[str]:
    lines = ["| source | language | kind | samples | shards | MB |", "|---|---|---|--:|--:|--:|"]
    for one in manifests:
        size = sum(shard.num_bytes for shard in one.shards) / 1e6
        lines.append(
            f"| {one.name} | {one.language} | {one.modality} | {one.num_samples:,} | "
            f"{len(one.shards)} | {size:,.1f} |"
        )
    return [
        *lines,
        "",
        "Sources of one name and several languages share their shards: a sample",
        "holds a record per language, and a `parallel_id`.",
    ]


def _provenance_lines(manifests: Sequence[Manifest]) -> list[str]:
    lines = ["## Where it comes from", ""]
    for one in manifests:
        provenance = one.provenance if isinstance(one.provenance, dict) else {}
        lines.append(
            f"* **{one.name}**: {one.licence}. {provenance.get('attribution', '')}".rstrip()
        )
        if place := provenance.get("place"):
            lines.append(f"  From `{place}`.")
        if by := provenance.get("translation"):
            lines.append(f"  Translation: {_translator_name(by)}.")
    return [*lines, ""]


def _translator_name(translation: dict[str, Any]) -> str:
    if "backend" in translation:
        endpoint = translation.get("endpoint") or {}
        return f"{translation['backend']}, model {endpoint.get('model') or translation['model']}"
    return f"published ({translation.get('place') or 'in the same rows'})"


def _dropped_rows(sources: dict[str, Any]) -> list[str]:
    if not sources:
        return []
    lines = [
        "## What was left out",
        "",
        "| source | step | in | out | left out, by reason |",
        "|---|---|--:|--:|---|",
    ]
    for name, steps in sources.items():
        for step, ledger in steps.items():
            reasons = ", ".join(f"{count:,} {why}" for why, count in ledger["dropped"].items())
            lines.append(
                f"| {name} | {step} | {ledger['num_in']:,} | {ledger['num_out']:,} | {reasons} |"
            )
    return lines

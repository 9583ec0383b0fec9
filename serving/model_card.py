"""The README.md of an exported model: what it learned from, how it scored, how it was made."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from core.io.jsonl import read_jsonl
from datamodules.mixture.config import ComponentConfig
from datamodules.shards.manifest import load_manifest
from pipeline.stages.evaluate import EvaluateStage
from pipeline.stages.training import TrainingStage
from pipeline.store.records import load_stage
from serving.cell import TrainedCell
from serving.export_check import ParityReport

_SHARES = ("share_of_samples/", "share_of_loss_tokens/")


def model_card(
    cell: TrainedCell, report: ParityReport, *, dtype: str, warnings: tuple[str, ...]
) -> str:
    """Markdown with the header that model hubs read."""
    parts = [
        _header(cell),
        _about(cell, report, dtype=dtype, warnings=warnings),
        _table("Data", ("source", "language", "samples", "licence"), list(_sources(cell))),
        "Each source keeps its licence; what they allow together is for you to judge.\n",
        *(_mixture(cell, kind, spec) for kind, spec in cell.training_stages.items()),
        _scores(cell),
        _origin(cell),
    ]
    return "\n".join(parts)


def _header(cell: TrainedCell) -> str:
    languages = [cell.config.languages.base, cell.config.languages.target]
    lines = ["library_name: transformers", "pipeline_tag: image-text-to-text", "license: other"]
    lines += ["license_name: see-data", "language:", *(f"- {tag}" for tag in languages)]
    return "\n".join(["---", *lines, "---"])


def _about(
    cell: TrainedCell, report: ParityReport, *, dtype: str, warnings: tuple[str, ...]
) -> str:
    model = cell.evaluation.model
    language_model, tower = model.language_model, model.tower
    revision = f" (revision {language_model.revision})" if language_model.revision else ""
    lines = [
        f"# {cell.cell_id}\n",
        "A vision-language model trained with Irudimen: a frozen CLIP tower, a connector and a "
        "Llama-class language model, written as a stock `LlavaForConditionalGeneration`.\n",
        f"- Language model: {language_model.path}{revision}; its licence applies to this model",
        f"- Tower: {tower.path or f'{tower.name} ({tower.pretrained})'}",
        f"- Connector: {model.connector.kind}; chat template: {model.template}",
        f"- Weights: {dtype}",
        f"- Checked: logits of transformers differ from the trained model's by at most "
        f"{report.logits:.1e} (fp32, {report.num_positions} positions, largest logit "
        f"{report.largest_logit:.1f})",
        *(f"- Warning: {warning}" for warning in warnings),
    ]
    return "\n".join(lines) + "\n"


def _sources(cell: TrainedCell) -> Iterator[tuple[str, ...]]:
    paths = {path for stage in cell.training_stages.values() for path in stage.manifests}
    for manifest in (load_manifest(Path(path)) for path in sorted(paths)):
        yield manifest.name, manifest.language, str(manifest.num_samples), manifest.licence


def _mixture(cell: TrainedCell, kind: str, spec: TrainingStage) -> str:
    rows = []
    for name, component in sorted(spec.stream.mixture.components.items()):
        names = [Path(path).name.removesuffix(".manifest.json") for path in _both(component)]
        share = f"{100 * component.target_share:g} % of {component.share_of}"
        curriculum = f"{len(component.phases)} later phases" if component.phases else ""
        shares = share if component.target else "-"
        row = (name, ", ".join(names), f"{component.samples_per_step:g}", shares, curriculum)
        rows.append(row)
    columns = ("component", "sources", "samples per step", "target language", "curriculum")
    about = (
        f"{spec.num_steps} steps, seed {spec.seed}, precision {spec.precision}, "
        f"learning rate {spec.optim.lr:g}, tuning {spec.tuning.kind}.\n"
    )
    return _table(f"Stage {kind}", columns, rows) + "\n" + about + "\n" + _realised(cell, kind)


def _both(component: ComponentConfig) -> list[str]:
    paths = (component.base, component.target)
    return [path for path in paths if path]


def _realised(cell: TrainedCell, kind: str) -> str:
    """What each source gave by the last step that was logged."""
    path = cell.folder(kind).path / "metrics.jsonl"
    last: dict[str, float] = {}
    for line in read_jsonl(path) if path.is_file() else []:
        last |= {n: v for n, v in line["metrics"].items() if n.startswith(_SHARES)}
    sources = sorted({name.partition("/")[2] for name in last})
    rows = [
        (source, *(f"{100 * last.get(prefix + source, 0.0):.2f} %" for prefix in _SHARES))
        for source in sources
    ]
    if not rows:
        return "Realised shares were not logged.\n"
    return _table("Realised shares", ("source", "of samples", "of target tokens"), rows, level=3)


def _scores(cell: TrainedCell) -> str:
    scores = load_stage(cell.folder(EvaluateStage.kind).path).scores
    if not scores:
        return "## Scores\n\nThis cell has not been evaluated.\n"
    rows = []
    for name, score in sorted(scores.items()):
        has_interval = score.ci_low is not None and score.ci_high is not None
        interval = f"{score.ci_low:.1f} .. {score.ci_high:.1f}" if has_interval else "-"
        baselines = [_number(value) for value in (score.majority, score.blind)]
        rows.append((name, f"{score.value:.1f}", interval, _number(score.n, 0), *baselines))
    columns = ("metric", "percent", "95 % interval", "n", "majority answer", "without image")
    settings = cell.evaluation
    source = f"Benchmark `{settings.benchmark}`, weights {settings.settings.weights}.\n"
    return _table("Scores", columns, rows) + "\n" + source


def _origin(cell: TrainedCell) -> str:
    rows = [(kind, f"`{node.address}`") for kind, node in cell.nodes.items()]
    data = {path: digest for node in cell.nodes.values() for path, digest in node.content.items()}
    listing = json.dumps(data, indent=1, sort_keys=True)
    table = _table("Origin", ("stage", "address"), rows)
    note = "An address is the hash of configuration, data and weights of a stage. What they read:\n"
    return f"{table}\n{note}\n```json\n{listing}\n```\n"


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _table(
    title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, level: int = 2
) -> str:
    lines = [f"{'#' * level} {title}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"

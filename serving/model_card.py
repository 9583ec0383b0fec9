"""Model card (README.md) of an exported cell: its data, its scores and its provenance."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from configuration.vlm_spec import VlmSpec
from core.io.jsonl import read_jsonl
from datamodules.mixture.config import ComponentConfig
from datamodules.shards.manifest import load_manifest
from models.export.stock import HfModel
from pipeline.stages.evaluate import EvaluateStage
from pipeline.stages.training import TrainingStage
from pipeline.store.records import load_stage
from serving.cell import TrainedCell
from serving.export_check import ParityReport

_SHARE_METRICS = ("share_of_samples/", "share_of_loss_tokens/")


def model_card(
    cell: TrainedCell, report: ParityReport, stock: HfModel | None, *, dtype: str
) -> str:
    """Return the card as Markdown with the metadata header of model hubs."""
    parts = [
        _render_metadata(cell),
        _render_summary(cell, report, stock, dtype=dtype),
        _render_table(
            "Data", ("source", "language", "samples", "licence"), list(_iterate_sources(cell))
        ),
        "Each source keeps its own licence. Check whether together they permit your use.\n",
        *(_render_mixture(cell, kind, spec) for kind, spec in cell.training_stages.items()),
        _render_scores(cell),
        _render_provenance(cell),
    ]
    return "\n".join(parts)


def _render_metadata(cell: TrainedCell) -> str:
    languages = [cell.config.languages.base, cell.config.languages.target]
    lines = ["library_name: transformers", "pipeline_tag: image-text-to-text", "license: other"]
    lines += ["license_name: see-data", "language:", *(f"- {tag}" for tag in languages)]
    return "\n".join(["---", *lines, "---"])


def _render_summary(
    cell: TrainedCell, report: ParityReport, stock: HfModel | None, *, dtype: str
) -> str:
    warnings = () if stock is None else stock.warnings
    lines = [
        f"# {cell.cell_id}\n",
        *_describe_model(cell.evaluation.model, "" if stock is None else stock.class_name),
        f"- Weights: {dtype}",
        f"- Parity check: logits of transformers differ from the trained model's by at most "
        f"{report.logits:.1e} (fp32, {report.num_positions} positions, largest logit "
        f"{report.largest_logit:.1f})",
        *(f"- Warning: {warning}" for warning in warnings),
    ]
    return "\n".join(lines) + "\n"


def _describe_model(model: VlmSpec, class_name: str) -> list[str]:
    if (source := model.ready_made) is not None:
        return [
            "A ready-made vision-language model, trained further with Irudimen and stored in its "
            "own class.\n",
            f"- Model: {source.path}{_revision(source.revision)}; its licence applies to this one",
        ]
    language_model, tower = model.language_model, model.tower
    revision = _revision(language_model.revision)
    return [
        "A vision-language model trained with Irudimen. It consists of a frozen vision tower, a "
        "connector and a Llama-class language model, and is stored as a stock "
        f"`{class_name}` of transformers.\n",
        f"- Language model: {language_model.path}{revision}; its licence applies to this model",
        f"- Tower: {tower.path or f'{tower.name} ({tower.pretrained})'}",
        f"- Connector: {model.connector.kind}; chat template: {model.template}",
    ]


def _revision(name: str) -> str:
    return f" (revision {name})" if name else ""


def _iterate_sources(cell: TrainedCell) -> Iterator[tuple[str, ...]]:
    paths = {path for stage in cell.training_stages.values() for path in stage.manifests}
    for manifest in (load_manifest(Path(path)) for path in sorted(paths)):
        yield manifest.name, manifest.language, str(manifest.num_samples), manifest.licence


def _render_mixture(cell: TrainedCell, kind: str, spec: TrainingStage) -> str:
    rows, amount = [], spec.stream.mixture.target_samples
    for name, component in sorted(spec.stream.mixture.components.items()):
        names = [
            Path(path).name.removesuffix(".manifest.json") for path in _source_paths(component)
        ]
        share = f"{100 * component.target_share:g} % of {component.share_of}"
        if amount is not None:
            share = f"a part of {amount.number:,} different samples"
        curriculum = f"{len(component.phases)} later phases" if component.phases else ""
        shares = share if component.target else "-"
        row = (name, ", ".join(names), f"{component.samples_per_step:g}", shares, curriculum)
        rows.append(row)
    columns = ("component", "sources", "samples per step", "target language", "curriculum")
    about = (
        f"{spec.num_steps} steps, seed {spec.seed}, precision {spec.precision}, "
        f"learning rate {spec.optim.lr:g}, tuning {spec.tuning.kind}.\n"
    )
    table = _render_table(f"Stage {kind}", columns, rows)
    return f"{table}\n{about}\n" + _render_realised_shares(cell, kind)


def _source_paths(component: ComponentConfig) -> list[str]:
    paths = (component.base, component.target)
    return [path for path in paths if path]


def _render_realised_shares(cell: TrainedCell, kind: str) -> str:
    """Render the share of every source up to the last logged step."""
    path = cell.folder(kind).path / "metrics.jsonl"
    last: dict[str, float] = {}
    for line in read_jsonl(path) if path.is_file() else []:
        last |= {n: v for n, v in line["metrics"].items() if n.startswith(_SHARE_METRICS)}
    sources = sorted({name.partition("/")[2] for name in last})
    rows = [
        (source, *(f"{100 * last.get(prefix + source, 0.0):.2f} %" for prefix in _SHARE_METRICS))
        for source in sources
    ]
    if not rows:
        return "Realised shares were not logged.\n"
    return _render_table(
        "Realised shares", ("source", "of samples", "of loss tokens"), rows, level=3
    )


def _render_scores(cell: TrainedCell) -> str:
    scores = load_stage(cell.folder(EvaluateStage.kind).path).scores
    if not scores:
        return "## Scores\n\nThis cell has not been evaluated.\n"
    rows = []
    for name, score in sorted(scores.items()):
        has_interval = score.ci_low is not None and score.ci_high is not None
        interval = f"{score.ci_low:.1f} .. {score.ci_high:.1f}" if has_interval else "-"
        baselines = [_format_number(value) for value in (score.majority, score.blind)]
        rows.append((name, f"{score.value:.1f}", interval, _format_number(score.n, 0), *baselines))
    columns = ("metric", "percent", "95 % interval", "n", "majority answer", "without image")
    settings = cell.evaluation
    benchmarks = ", ".join(f"`{path}`" for path in settings.benchmarks)
    source = f"Benchmarks: {benchmarks}; weights {settings.settings.weights}.\n"
    return _render_table("Scores", columns, rows) + "\n" + source


def _render_provenance(cell: TrainedCell) -> str:
    rows = [(kind, f"`{node.address}`") for kind, node in cell.nodes.items()]
    data = {path: digest for node in cell.nodes.values() for path, digest in node.content.items()}
    listing = json.dumps(data, indent=1, sort_keys=True)
    table = _render_table("Provenance", ("stage", "address"), rows)
    note = (
        "An address is the hash of the configuration, data and weights of a stage. Hashes of the "
        "files that the stages read:\n"
    )
    return f"{table}\n{note}\n```json\n{listing}\n```\n"


def _format_number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _render_table(
    title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, level: int = 2
) -> str:
    lines = [f"{'#' * level} {title}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"

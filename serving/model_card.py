"""Model card (README.md) of an exported cell: its data, its scores and its provenance."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from configuration.mixture import trained_languages
from configuration.vlm_spec import VlmSpec
from core.io.hub import is_hub_name
from core.io.jsonl import read_jsonl
from datamodules.mixture.config import ComponentConfig
from datamodules.shards.manifest import SUFFIX, Manifest, load_manifest
from models.export.stock import HfModel
from pipeline.stages.evaluate import EvaluateStage
from pipeline.stages.training import TrainingStage
from pipeline.store.records import load_stage
from serving.cell import TrainedCell
from serving.export_check import ParityReport

_EXACT_IMAGES = """\
# transformers 5: resize exactly as in training; version 4 takes use_fast=False
processor.image_processor = AutoImageProcessor.from_pretrained(name, backend="pil")
"""
_USAGE = """\
## Use

```python
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

name = "."  # this folder, or its name on the hub
model = AutoModelForImageTextToText.from_pretrained(name)
processor = AutoProcessor.from_pretrained(name)
EXACTcontent = [{"type": "image"}, {"type": "text", "text": "Zer da hau?"}]
messages = [{"role": "user", "content": content}]
text = processor.apply_chat_template(messages, add_generation_prompt=True)
image = Image.open("photo.jpg").convert("RGB")
inputs = processor(images=image, text=text, add_special_tokens=False, return_tensors="pt")
answer = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
print(processor.decode(answer, skip_special_tokens=True))
```

The chat template and greedy decoding are those of the evaluation below, which asks each question
alone.
"""
_LOADING = (
    "- Content: adapters and fully trained modules in the format of PEFT; load the model named "
    "above with transformers, then call its `load_adapter` with this folder"
)
_HUB_DATASET = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+?)(?=[@/\"])")
_SHARE_METRICS = ("share_of_samples/", "share_of_loss_tokens/")


def model_card(
    cell: TrainedCell,
    report: ParityReport,
    stock: HfModel | None,
    *,
    dtype: str,
    is_adapter: bool = False,
) -> str:
    """Return the card as Markdown with the metadata header of model hubs."""
    parts = [
        _render_metadata(cell, library="peft" if is_adapter else "transformers"),
        _render_summary(cell, report, stock, dtype=dtype, is_adapter=is_adapter),
        *([] if is_adapter else [_render_usage(stock)]),
        _render_table(
            "Data", ("source", "language", "samples", "licence"), list(_iterate_sources(cell))
        ),
        "Each source keeps its own licence. Check whether together they permit your use.\n",
        *(_render_mixture(cell, kind, spec) for kind, spec in cell.training_stages.items()),
        _render_scores(cell),
        _render_provenance(cell),
    ]
    return "\n".join(parts)


def _render_metadata(cell: TrainedCell, *, library: str) -> str:
    """Render the header that model hubs read: languages, licence, origins and scores."""
    languages = cell.config.languages
    results = _results(cell)
    data = ModelCardData(
        model_name=cell.cell_id if results else None,
        language=list(trained_languages(cell.config)),
        license="other",
        license_name="see-data",
        license_link="#data",
        library_name=library,
        pipeline_tag="image-text-to-text",
        tags=["irudimen", "vision-language-model", languages.target],
        base_model=_hub_models(cell.evaluation.model) or None,
        datasets=_hub_datasets(cell) or None,
        eval_results=results or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _results(cell: TrainedCell) -> list[EvalResult]:
    """Return the scores as entries of the hub's model-index."""
    scores = load_stage(cell.folder(EvaluateStage.kind).path).scores
    benchmark = _manifest_name(cell.evaluation.benchmarks[0])
    return [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=benchmark,
            dataset_name=benchmark,
            metric_type=name.rpartition("/")[2],
            metric_name=name,
            metric_value=round(score.value, 2),
        )
        for name, score in sorted(scores.items())
    ]


def _hub_models(model: VlmSpec) -> list[str]:
    """Return the parts that are models of the hub."""
    if model.ready_made is not None:
        names = [model.ready_made.path]
    else:
        names = [model.language_model.path, model.tower.path or model.tower.name]
    return [name for name in names if is_hub_name(name)]


def _hub_datasets(cell: TrainedCell) -> list[str]:
    """Return the datasets of the hub that the sources were prepared from."""
    origins = [json.dumps(manifest.provenance) for manifest in _manifests(cell)]
    return sorted({name for text in origins for name in _HUB_DATASET.findall(text)})


def _render_usage(stock: HfModel | None) -> str:
    """Render how the model is asked a question; the PIL backend resizes exactly as in training."""
    exact = "" if stock is None else _EXACT_IMAGES
    return _USAGE.replace("EXACT", exact)


def _render_summary(
    cell: TrainedCell,
    report: ParityReport,
    stock: HfModel | None,
    *,
    dtype: str,
    is_adapter: bool,
) -> str:
    warnings = () if stock is None else stock.warnings
    lines = [
        f"# {cell.cell_id}\n",
        *_describe_model(cell, "" if stock is None else stock.class_name),
        f"- Weights: {dtype}",
        *([_LOADING] if is_adapter else []),
        f"- Parity check: logits of transformers differ from the trained model's by at most "
        f"{report.logits:.1e} (fp32, {report.num_positions} positions, largest logit "
        f"{report.largest_logit:.1f})",
        *(f"- Warning: {warning}" for warning in warnings),
    ]
    return "\n".join(lines) + "\n"


def _describe_model(cell: TrainedCell, class_name: str) -> list[str]:
    model = cell.evaluation.model
    if (source := model.ready_made) is not None:
        return [
            "A ready-made vision-language model, trained further with Irudimen and stored in its "
            "own class.\n",
            f"- Model: {_describe_part(cell, source.path, source.revision)}; its licence applies "
            "to this one",
        ]
    language_model, tower = model.language_model, model.tower
    part = _describe_part(cell, language_model.path, language_model.revision)
    shown = _describe_part(cell, tower.path, "") if tower.path else tower.name
    return [
        "A vision-language model trained with Irudimen. It consists of a frozen vision tower, a "
        "connector and a Llama-class language model, and is stored as a stock "
        f"`{class_name}` of transformers.\n",
        f"- Language model: {part}; its licence applies to this model",
        f"- Tower: {shown}{f' ({tower.pretrained})' if tower.pretrained else ''}",
        f"- Connector: {model.connector.kind}; chat template: {model.template}",
    ]


def _describe_part(cell: TrainedCell, path: str, revision: str) -> str:
    """Return a model's name and revision on the hub, or the name and hash of its local weights."""
    if not Path(path).is_dir():
        return f"{path} (revision {revision})" if revision else path
    content = {
        file: digest for node in cell.nodes.values() for file, digest in node.content.items()
    }
    hashes = [
        f"{Path(file).name} sha256 {digest}"
        for file, digest in sorted(content.items())
        if Path(file).suffix == ".safetensors" and Path(file).is_relative_to(path)
    ]
    return f"{Path(path).name} ({', '.join(hashes)})" if hashes else Path(path).name


def _manifests(cell: TrainedCell) -> list[Manifest]:
    paths = {path for stage in cell.training_stages.values() for path in stage.manifests}
    return [load_manifest(Path(path)) for path in sorted(paths)]


def _iterate_sources(cell: TrainedCell) -> Iterator[tuple[str, ...]]:
    for manifest in _manifests(cell):
        yield manifest.name, manifest.language, str(manifest.num_samples), manifest.licence


def _manifest_name(path: str) -> str:
    return Path(path).name.removesuffix(SUFFIX)


def _render_mixture(cell: TrainedCell, kind: str, spec: TrainingStage) -> str:
    rows, amount = [], spec.stream.mixture.target_samples
    for name, component in sorted(spec.stream.mixture.components.items()):
        names = [_manifest_name(path) for path in _source_paths(component)]
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
    benchmarks = ", ".join(f"`{_manifest_name(path)}`" for path in settings.benchmarks)
    source = f"Benchmarks: {benchmarks}; weights {settings.settings.weights}.\n"
    return _render_table("Scores", columns, rows) + "\n" + source


def _render_provenance(cell: TrainedCell) -> str:
    rows = [(kind, f"`{node.address}`") for kind, node in cell.nodes.items()]
    data = dict[str, str]()
    for node in cell.nodes.values():
        for path, digest in node.content.items():  # without the folders of this machine
            name = "/".join(Path(path).parts[-2:])
            data[name if data.get(name, digest) == digest else f"{name} {digest[:8]}"] = digest
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

"""What a stage run will cost, before it runs: steps, tokens, epochs, parameters, memory, time."""

import dataclasses
import json
import struct
import time
from functools import cache as memoize
from pathlib import Path

import torch

from core.chat import TEMPLATES, ChatFormat, PromptStyle, load_tokenizer
from datamodules.lengths import measure_lengths
from datamodules.manifest import load_manifest
from datamodules.sources import Source
from experiments.graph import StageNode
from experiments.specs import EvaluateSpec, FeaturesSpec, StageKind, TrainSpec
from models.vision_tower import count_image_tokens

_STATES_PER_TRAINED = 4
"""Copies of a trained number: weight, gradient, two moments of AdamW."""
_PROCESS_MB = 600.0
"""What a worker holds before it loads a model: the libraries (measured, resident)."""
_ACHIEVED = 0.5
"""Share of a plain matrix product's speed that a small model's step reaches (measured)."""
_PICTURES_PER_S = 50.0
"""Pictures a core encodes with the embedded tower (measured)."""
_QUESTIONS_PER_PICTURE, _TOKENS_PER_QUESTION = 4, 60
_PROBE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Numbers of a dry run; zero or empty where they have no meaning."""

    num_steps: int = 0
    num_samples: int = 0
    num_tokens: int = 0
    epochs: str = ""
    trained: int = 0
    frozen: int = 0
    memory_mb: float = _PROCESS_MB
    seconds: float | None = None
    """None where nobody knows."""

    def cells(self) -> tuple[str, ...]:
        """Texts of a table row."""
        counts = (self.num_steps, self.num_samples, self.num_tokens)
        parameters = (self.trained, self.frozen)
        return (
            *(f"{count:,}" if count else "" for count in counts),
            self.epochs,
            *(f"{count / 1e6:.2f} M" if count else "" for count in parameters),
            f"{self.memory_mb:,.0f} MB",
            "?" if self.seconds is None else f"{self.seconds:,.0f} s",
        )


def estimate(node: StageNode, *, cache: Path) -> Estimate:
    """Estimate a stage run from its spec, its data and the speed of one core of this machine."""
    spec = node.spec
    if isinstance(spec, TrainSpec):
        return _train(spec, trains_lm=node.kind is StageKind.INSTRUCT, cache=cache)
    if isinstance(spec, FeaturesSpec):
        count = sum(load_manifest(Path(path)).num_samples for path in spec.manifests)
        return Estimate(num_samples=count, seconds=count / _PICTURES_PER_S)
    if isinstance(spec, EvaluateSpec):
        parameters = _num_parameters(spec.model.language_model.path)
        pictures = load_manifest(Path(spec.manifest)).num_samples
        questions = pictures * len(spec.languages) * _QUESTIONS_PER_PICTURE
        seconds = 2 * parameters * questions * _TOKENS_PER_QUESTION / _flops_per_s()
        return Estimate(num_samples=questions, frozen=parameters, seconds=seconds)
    return Estimate()


def _train(spec: TrainSpec, *, trains_lm: bool, cache: Path) -> Estimate:
    chat = _chat(spec)
    epochs, samples, tokens = [], 0.0, 0.0
    for name, component in spec.stream.mixture.components.items():
        style = spec.stream.prompt_style or PromptStyle.CHAT
        source = Source(Path(component.base))
        lengths = measure_lengths(source, chat, style, cache / "lengths").num_tokens
        drawn = component.samples_in(spec.num_steps)
        epochs.append(f"{name} {drawn / len(lengths):.1f}")
        samples, tokens = samples + drawn, tokens + drawn * float(lengths.mean())
    parameters = _num_parameters(spec.model.language_model.path)
    trained = parameters if trains_lm else 0
    flops_per_token = (6 if trains_lm else 4) * parameters
    return Estimate(
        num_steps=spec.num_steps,
        num_samples=round(samples),
        num_tokens=round(tokens),
        epochs=", ".join(epochs),
        trained=trained,
        frozen=parameters - trained,
        memory_mb=_PROCESS_MB + 4 * (_STATES_PER_TRAINED * trained + parameters) / 2**20,
        seconds=flops_per_token * tokens / _flops_per_s(),
    )


def _chat(spec: TrainSpec) -> ChatFormat:
    model = spec.model
    num_image_tokens = count_image_tokens(model.tower)
    tokenizer = load_tokenizer(model.language_model.path, revision=model.language_model.revision)
    return ChatFormat(tokenizer, TEMPLATES[model.template], num_image_tokens=num_image_tokens)


@memoize
def _num_parameters(folder: str) -> int:
    """Parameters of a local model, read from the safetensors headers alone."""
    total = 0
    for file in Path(folder).glob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        total += sum(int(torch.Size(shape).numel()) for shape in shapes)
    return total


@memoize
def _flops_per_s() -> float:
    """What one core achieves: a matrix product, timed, times the share that training reaches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    matrix = torch.ones(_PROBE, _PROBE)
    matrix @ matrix
    begin = time.perf_counter()
    matrix @ matrix
    seconds = time.perf_counter() - begin
    torch.set_num_threads(threads)
    return _ACHIEVED * 2 * _PROBE**3 / seconds

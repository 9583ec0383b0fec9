"""Cost of a stage on GPUs: memory by part, floating point operations, hours.

docs/reference/planner.md lists the formulas and what they leave out.
"""

import dataclasses
from collections.abc import Mapping

from configuration.run_config import EvaluateConfig
from core.precision import Precision
from evaluation.retention import RetentionConfig
from models.accounting.footprint import Footprint
from models.language.adapters import TuningKind
from planner.gpus import GIB, Gpu, TimeSpan
from planner.training_fields import TrainingFields
from planner.training_memory import TrainingSetup, training_memory
from planner.workload import Load

_FLOAT, _HALF = 4.0, 2.0
_RESERVE_BYTES = 2.0 * GIB
"""Memory of the CUDA context, libraries and workspaces."""
_FRAGMENTS = 1.06
"""Factor for fragmentation of the allocator."""
_PROCESS_GIB = 8.0
"""Main memory of libraries, loaders and the index of the data (assumed, not measured)."""
RESERVE = "reserve"
"""Part of the memory for what no formula and no trace sees."""
_ON_HOST = ("frozen weights", "trained weights", "optimizer")
_ATTENTION_PASSES = 3
_TRAINED_PASSES = 3
"""Forward pass, gradients of inputs, and gradients of weights."""
_EVALUATION_COPIES = 6
_TASK_DOCUMENTS, _DOCUMENT_TOKENS = 3000, 150
"""Assumed size of an lm-eval task."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Estimated cost of one stage run."""

    flops: float
    """Executed floating point operations, including recomputed ones."""
    memory: Mapping[str, float]
    """Part -> bytes on each GPU."""
    read_bytes: float = 0.0
    """Bytes read from memory one after the other while replies are generated token by token."""
    uses_float8: bool = False
    """Whether the matrix products of the decoder blocks are in float8."""

    @property
    def host_gib(self) -> float:
        """Generous estimate of the main memory of one process.

        Weights and optimizer state pass through main memory when they are loaded, and stay there as
        a copy while a checkpoint is written in the background.
        """
        return _PROCESS_GIB + sum(self.memory.get(part, 0.0) for part in _ON_HOST) / GIB

    @property
    def memory_gib(self) -> float:
        """Memory of all parts."""
        return sum(self.memory.values()) / GIB

    def time(self, gpu: Gpu, hidden_size: int, count: int) -> TimeSpan:
        """Return the assumed time on `count` GPUs."""
        return gpu.time(
            self.flops,
            self.read_bytes,
            hidden_size=hidden_size,
            count=count,
            uses_float8=self.uses_float8,
        )


def training_cost(
    stage: TrainingFields, model: Footprint, load: Load, setup: TrainingSetup
) -> Cost:
    """Return the cost of a training stage; `model` is counted with its tuning method."""
    memory = training_memory(stage, model, load, setup)
    return Cost(
        flops=training_flops(stage, model, load, has_tower=setup.has_tower),
        memory=_with_reserve(memory),
        uses_float8=stage.precision is Precision.FLOAT8_MIXED,
    )


def evaluation_cost(
    settings: EvaluateConfig, model: Footprint, load: Load, *, has_tower: bool
) -> Cost:
    """Return the cost of asking one model every question, on one GPU."""
    size = settings.weights.num_bytes
    language_model = model.language_model * size
    batch_sizes = {
        limit: settings.limits.prompts_per_batch(settings.batch_size, limit, model.num_image_tokens)
        for limit in load.num_replies
    }
    at_once = max(
        (size * (load.document_tokens + limit) for limit, size in batch_sizes.items()), default=0.0
    )
    widths = _EVALUATION_COPIES * model.hidden_size + 3 * model.inner_size
    memory = {
        "frozen weights": (model.tower + model.connector) * size + language_model,
        "activations": at_once * widths * size,
        "keys, values": at_once * model.num_blocks * model.cache_width * size,
    }
    # Batches have one limit each; at worst, all of them reach it.
    steps = sum(limit * n / batch_sizes[limit] for limit, n in load.num_replies.items())
    steps += sum(limit * n for limit, n in load.num_alone.items())
    images = model.image_flops * load.num_images if has_tower else 0.0
    return Cost(
        flops=sum(_block_flops(model, load)) + images + _connector_flops(model, load),
        memory=_with_reserve(memory),
        read_bytes=steps * language_model,
    )


def features_cost(image_flops: float, num_images: int) -> Cost:
    """Return the cost of one pass of the tower over every image."""
    return Cost(flops=image_flops * num_images, memory=_with_reserve({}))


def retention_cost(
    settings: RetentionConfig, model: Footprint, documents: Mapping[str, int]
) -> Cost:
    """Return the cost of scoring the language model alone.

    Args:
        settings: Tasks and batch size.
        model: Counts of the model.
        documents: Task -> its number of documents. The sizes of lm-eval's tasks are unknown before
            they are downloaded and therefore assumed.
    """
    sizes = [documents.get(task, _TASK_DOCUMENTS) for task in settings.tasks]
    total = sum(min(size, settings.limit or size) for size in sizes)
    tokens = total * _DOCUMENT_TOKENS
    load = Load(num_samples=total, num_tokens=tokens)
    at_once = settings.batch_size * _DOCUMENT_TOKENS
    logits = at_once * model.vocab_size * _FLOAT * 2
    memory = {"frozen weights": model.language_model * settings.weights.num_bytes, "logits": logits}
    head = 2.0 * tokens * model.vocab_size * model.hidden_size
    return Cost(flops=sum(_block_flops(model, load)) + head, memory=_with_reserve(memory))


def training_flops(
    stage: TrainingFields, model: Footprint, load: Load, *, has_tower: bool
) -> float:
    """Return the floating point operations of a training stage."""
    is_full = stage.policy.language_model and stage.tuning.kind is TuningKind.FULL
    passes = 1 + (2 if is_full else 1)  # forward; gradients of inputs (and of weights)
    every = stage.compute.checkpoint_blocks
    again = -(-model.num_blocks // every) / model.num_blocks if every else 0.0
    matrices, attention = _block_flops(model, load)
    # Recomputation stops at the last activation needed: a block's last matrix isn't run again.
    last = model.num_blocks * model.hidden_size * model.inner_size / model.quantisable
    blocks = matrices * (passes + again * (1 - last)) + attention * (_ATTENTION_PASSES + again)
    head = 2.0 * load.num_loss_tokens * model.vocab_size * model.hidden_size
    head *= passes + (1 if stage.compute.loss_chunk else 0)
    adapters = (
        2.0 * 3 * load.num_tokens * model.adapters
        if stage.policy.language_model and not is_full
        else 0.0
    )
    connector = 3 * _connector_flops(model, load)
    tower = model.image_flops * load.num_images if has_tower else 0.0
    tower *= _TRAINED_PASSES if stage.policy.tower else 1
    return blocks + head + adapters + connector + tower


def _connector_flops(model: Footprint, load: Load) -> float:
    """Return the forward FLOPs of the connector; a document with an image has it at its start."""
    following = load.num_images * load.document_tokens
    return load.num_images * model.connector_image_flops + following * model.connector_token_flops


def _block_flops(model: Footprint, load: Load) -> tuple[float, float]:
    """Return the forward FLOPs of the decoder blocks: matrices, and causal attention."""
    attention = 4.0 * model.hidden_size * load.document_tokens / 2 * model.num_blocks
    return load.num_tokens * 2.0 * model.quantisable, load.num_tokens * attention


def _with_reserve(memory: Mapping[str, float]) -> dict[str, float]:
    used = sum(memory.values())
    return {**memory, RESERVE: _RESERVE_BYTES + used * (_FRAGMENTS - 1)}

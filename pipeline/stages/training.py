"""What each kind of stage does once its inputs are there. One function a kind, all restartable."""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch

from callbacks.checkpoints import latest_checkpoint
from callbacks.metrics_log import write_progress
from configuration.trainer import TrainerConfig
from core.errors import DataError, PreemptedError
from core.io.files import atomic_write_text
from core.process.log import get_logger
from core.process.stop import StopFlag
from datamodules.batches.bad_samples import SUMMARY_NAME, write_summary
from datamodules.batches.feature_cache import BROKEN_IMAGE, FeatureCache, build_feature_cache
from datamodules.mixture_datamodule import MixtureDataModule
from datamodules.shards.manifest import Modality, load_manifest
from datamodules.shards.source import iterate_images, iterate_named_images
from evaluation.runner import blank_image
from lightning_modules.compute import StrategyName
from lightning_modules.lowbit import check_combination
from lightning_modules.vlm_module import (
    AlignmentModule,
    InstructionModule,
    Sharding,
    VlmModule,
)
from models.freezing import cast_frozen
from models.language.adapters import TuningKind, adapter_names, tune
from models.language.language_model import loading_dtype
from models.towers.folding import fold_batch_norms
from models.towers.vision_tower import VisionTower, load_vision_tower
from models.vlm import VisionLanguageModel
from models.weights import list_parts, load_weights, save_weights
from pipeline.launchers.devices import compute_device
from pipeline.stages.builders import (
    Supervision,
    apply_compute,
    build_trainer,
    build_vlm,
    fill_language_model,
)
from pipeline.stages.specs import (
    FeaturesSpec,
    PretrainSpec,
    TrainSpec,
)
from pipeline.store.store import StageFolder

_LOG = get_logger("stage")
CACHE_NAME = "cache.txt"
"""File of a features result that names its cache folder."""
LEDGER_FOLDER = "bad_samples"
"""Folder of a training stage in which every rank notes what it left out."""
_FEATURE_BATCH = 64
_CHUNK = 2
"""Images at once: their feature maps stay in the cache of a core."""
_CONV_DIMS = 4
WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageContext:
    """What a stage run knows besides its spec."""

    folder: StageFolder
    inputs: dict[str, Path]
    """Role -> result folder of the stage run it builds on."""
    cache: Path
    """Scratch that may be deleted at any time (token lengths)."""
    trainer: TrainerConfig
    flag: StopFlag
    on_hung: Callable[[str], None]
    """Told why before a training that no longer moves is ended."""


def run_features(spec: FeaturesSpec, context: StageContext) -> None:
    """Encode every image once with the frozen tower."""
    tower = load_vision_tower(spec.tower).eval()
    address = tower.fingerprint()  # of the weights as they lie on disk
    fold_batch_norms(tower, torch.zeros(1, 3, tower.transform.size, tower.transform.size))
    for parameter in tower.parameters():  # what `to(memory_format=...)` does, in typed words
        if parameter.ndim == _CONV_DIMS:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    device = compute_device(context.trainer.accelerator)
    tower.to(device)
    manifests = [load_manifest(Path(path)) for path in spec.manifests]
    total = sum({e.sha256: e.num_samples for m in manifests for e in m.shards}.values())

    # Every image on a thread of its own, and one thread inside: small operations spend more
    # time meeting at barriers than computing, and the features don't depend on the cores.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(num_threads)

    def encode(images: list[bytes]) -> np.ndarray:
        if context.flag.is_set:
            raise PreemptedError("stopped between two batches of images")
        chunks = [images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK)]
        return np.concatenate(list(pool.map(partial(_encode, tower, device), chunks)))

    def images() -> Iterator[bytes]:
        yield blank_image()
        for manifest in spec.manifests:
            yield from iterate_images(Path(manifest))

    done = 0

    def on_progress(count: int) -> None:
        nonlocal done
        done += count
        write_progress(context.folder.path, step=done, total=total, metrics={})

    cache = build_feature_cache(
        context.folder.scratch,
        address,
        images(),
        encode,
        batch_size=_FEATURE_BATCH,
        on_progress=on_progress,
    )
    for manifest in manifests_of_benchmarks(spec):
        check_benchmark_images(manifest, cache)
    atomic_write_text(context.folder.scratch / CACHE_NAME, cache.folder.name)


def manifests_of_benchmarks(spec: FeaturesSpec) -> list[Path]:
    """The manifests whose images are all asked about."""
    paths = [Path(path) for path in spec.manifests]
    return [path for path in paths if load_manifest(path).modality is Modality.BENCHMARK]


def check_benchmark_images(manifest: Path, cache: FeatureCache) -> None:
    """Refuse a benchmark with a broken image before anything is trained.

    Raises:
        DataError: with shard and key.
    """
    for where, image in iterate_named_images(manifest):
        try:
            cache.get(image)
        except DataError as error:
            raise DataError(f"benchmark {manifest.name}, {where}: {error}") from error


@torch.inference_mode()
def _encode(tower: VisionTower, device: torch.device, images: list[bytes]) -> np.ndarray:
    """Features (N, P, E); BROKEN_IMAGE where an image can't be read."""
    pixels = [_decode(tower, image) for image in images]
    shape = (len(images), tower.num_image_tokens, tower.width)
    features_NPE = np.full(shape, BROKEN_IMAGE, dtype=np.float32)
    whole = [i for i, pixels_CHW in enumerate(pixels) if pixels_CHW is not None]
    if whole:
        pixels_NCHW = torch.stack([p for p in pixels if p is not None])
        layout = torch.channels_last  # convolutional trunks are a third faster this way on CPU
        pixels_NCHW = pixels_NCHW.contiguous(memory_format=layout).to(device)
        features_NPE[whole] = tower(pixels_NCHW).float().cpu().numpy()
    return features_NPE


def _decode(tower: VisionTower, image: bytes) -> torch.Tensor | None:
    """Pixels of an image, None for a broken one: each source has a budget of those."""
    try:
        return tower.transform(image)
    except DataError as error:
        _LOG.warning("an image is left out of the cache: %s", error)
        return None


def run_align(spec: TrainSpec, context: StageContext) -> None:
    """Stage 1: train the connector."""
    _train(spec, context, AlignmentModule)


def run_instruct(spec: TrainSpec, context: StageContext) -> None:
    """Stage 2: train connector and language model, from stage 1 where there was one."""
    _train(spec, context, InstructionModule)


def before_tuning(dtype: torch.dtype, kind: TuningKind) -> torch.dtype:
    """Type to load in: 4 bits are always made of float32, so that every stage gets the same."""
    return torch.float32 if kind is TuningKind.QLORA else dtype


def _train(
    spec: TrainSpec,
    context: StageContext,
    module_class: type[AlignmentModule] | type[InstructionModule],
) -> None:
    is_sharded = spec.compute.strategy.is_sharded
    learns = module_class is InstructionModule
    check_combination(
        "stage",
        optimizer=spec.optim.optimizer,
        tuning=spec.tuning.kind,
        strategy=spec.compute.strategy,
        trains_language_model=learns,
    )
    is_frozen = not learns and spec.precision != "32-true"
    dtype = torch.bfloat16 if is_frozen else loading_dtype(spec.precision)
    parts = build_vlm(
        spec.model,
        cache=feature_folder(context),
        seed=spec.seed,
        is_empty=is_sharded,
        dtype=before_tuning(dtype, spec.tuning.kind),
    )

    def fill(model: VisionLanguageModel) -> None:
        if is_sharded:
            fill_language_model(spec.model, model)
        if "align" in context.inputs:
            load_parts(model, context.inputs["align"] / WEIGHTS)

    if not is_sharded:
        fill(parts.model)
        tune(parts.model.language_model, spec.tuning, seed=spec.seed, learns=learns)
    data = MixtureDataModule(
        spec.stream,
        chat=parts.chat,
        num_steps=spec.num_steps,
        cache_dir=context.cache,
        features=parts.features,
        transform=None if parts.model.tower is None else parts.model.tower.transform,
        allow_data_change=context.trainer.allow_data_change,
        ledger_dir=context.folder.path / LEDGER_FOLDER,
    )
    module = module_class(parts.model, optim=spec.optim, num_steps=spec.num_steps)
    if spec.precision != "32-true":
        cast_frozen(parts.model, torch.bfloat16)
    apply_compute(parts.model, spec.compute, context.trainer.accelerator)
    if spec.tuning.dropout and adapter_names(parts.model.language_model):
        module.dropout_seed = spec.seed
    if is_sharded:
        module.sharding = Sharding(precision=spec.precision, load=fill)
    is_first = fit(context, module, data, spec, strategy=spec.compute.strategy)
    trained = {line.part for line in module.freeze_report.lines if line.trainable}
    save_weights(
        context.folder.scratch / WEIGHTS,
        {name: getattr(parts.model, name) for name in sorted(trained)},
        is_writer=is_first,
    )


def fit(
    context: StageContext,
    module: VlmModule,
    data: MixtureDataModule,
    spec: TrainSpec | PretrainSpec,
    *,
    strategy: StrategyName = StrategyName.AUTO,
) -> bool:
    """Train from the newest whole checkpoint on; returns whether this is rank 0."""
    checkpoint = latest_checkpoint(context.folder.checkpoints)
    trainer = build_trainer(
        context.folder.path,
        context.trainer,
        spec=spec,
        supervision=Supervision(flag=context.flag, on_hung=context.on_hung),
        strategy=strategy,
    )
    if trainer.is_global_zero:
        report = module.freeze_report.table()
        _LOG.info("what learns, in parameters:\n%s", report)
        atomic_write_text(context.folder.scratch / "freeze_report.txt", report)
    path = checkpoint.path if checkpoint else None
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    if trainer.is_global_zero:
        stop = spec.num_steps * data.stream.samples_per_step
        write_summary(
            context.folder.path / LEDGER_FOLDER, context.folder.scratch / SUMMARY_NAME, stop=stop
        )
    return trainer.is_global_zero


def feature_folder(context: StageContext) -> Path | None:
    """The feature cache that a stage run reads; None where the tower itself runs."""
    if "features" not in context.inputs:
        return None
    result = context.inputs["features"]
    return result / (result / CACHE_NAME).read_text()


def load_parts(model: VisionLanguageModel, path: Path) -> None:
    """Fill the parts of a model that a stage trained."""
    load_weights(path, {name: getattr(model, name) for name in list_parts(path)})

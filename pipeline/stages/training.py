"""Training stages of a cell: what `align` and `instruct` have in common."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch

from callbacks.checkpoint_files import checkpoint_at, latest_checkpoint
from configuration.mixture import stage_mixture
from configuration.mixture_lines import MixtureLineConfig
from configuration.run_config import RunConfig, TrainConfig
from configuration.vlm_spec import VlmSpec
from core.config import ABSENT_IF_NONE, EXECUTION_ONLY
from core.errors import ConfigError
from core.io.files import atomic_write_text
from core.precision import Precision
from core.process.log import get_logger
from datamodules.batches.bad_samples import SUMMARY_NAME, write_summary
from datamodules.batches.target_data import (
    count_exposures,
    measure_target_data,
    save_target_data,
)
from datamodules.mixture.config import MixtureConfig
from datamodules.mixture_datamodule import MixtureDataModule, StreamConfig
from lightning_modules.compute import ComputeConfig, StrategyName
from lightning_modules.lowbit import check_combination
from lightning_modules.optim import OptimConfig, first_decay_step
from lightning_modules.vlm_module import Sharding, VlmModule
from models.freezing import FreezePolicy, cast_frozen
from models.language.adapters import TuningConfig, adapter_names
from models.language.float8 import check_float8, use_float8
from models.language.language_model import loading_dtype
from pipeline.assemble import WEIGHTS, assemble, feature_folder
from pipeline.assemble_ready_made import assemble_ready_made
from pipeline.assemble_trained import ModelParts
from pipeline.device import training_device, uses_gpu
from pipeline.stages.base import InputRole, Stage, StageContext
from pipeline.trainer import Supervision, TrainingRun, apply_compute, build_trainer, row_layout
from planner.estimator import Estimator, StageEstimate

_LOG = get_logger("training")
LEDGER_FOLDER = "bad_samples"
"""Folder of a training stage in which every rank records the samples that it skipped."""
FREEZE_REPORT = "freeze_report.txt"
"""File of a training stage's result with its trainable and frozen parameters."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingStage(Stage):
    """One training stage of a vision-language model."""

    is_distributed: ClassVar[bool] = True

    model: VlmSpec
    stream: StreamConfig
    optim: OptimConfig
    num_steps: int
    seed: int
    """Seed of the connector's initialisation; the seed of the data is in the mixture."""
    policy: FreezePolicy
    """The parts of the model that are trained."""
    precision: Precision = Precision.FLOAT32
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)
    """How the language model is trained, or held if it is frozen."""
    compute: ComputeConfig = dataclasses.field(
        default_factory=ComputeConfig, metadata=EXECUTION_ONLY
    )
    branch_at: int | None = dataclasses.field(default=None, metadata=ABSENT_IF_NONE)
    """Steps after which the stage leaves its trunk, from whose checkpoint it continues; None trains
    all steps."""

    @classmethod
    def from_train_config(
        cls,
        config: RunConfig,
        stage: TrainConfig,
        *,
        policy: FreezePolicy,
        text_only: Mapping[str, MixtureLineConfig],
    ) -> Self:
        """Return the stage that a section of the configuration describes.

        Raises:
            ConfigError: If the agreement of gradients is to be measured on sharded weights.
        """
        if config.trainer.gradient_agreement_every_n_steps and stage.compute.strategy.is_sharded:
            raise ConfigError(
                "trainer.gradient_agreement_every_n_steps needs whole gradients on every rank, but "
                f"{cls.kind}.compute.strategy={stage.compute.strategy} shards them; set it to 0, "
                "or strategy=ddp"
            )
        stream = StreamConfig(
            mixture=stage_mixture(config, stage, text_only=text_only),
            prompt_style=stage.prompt_style,
            micro_batch_tokens=stage.micro_batch_tokens,
            row_tokens=stage.row_tokens,
            feature_noise_std=stage.feature_noise_std,
            max_bad_fraction=stage.max_bad_fraction,
            num_workers=config.trainer.num_workers,
        )
        return cls(
            model=VlmSpec.from_config(config),
            stream=stream,
            optim=stage.optim,
            num_steps=stage.num_steps,
            seed=config.cell.seed,
            policy=policy,
            precision=config.trainer.precision,
            tuning=stage.tuning,
            compute=stage.compute,
            branch_at=first_decay_step(stage.optim, stage.num_steps)
            if stage.branch_points
            else None,
        )

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Steps whose checkpoints are written and kept in any case."""
        return ()

    @property
    def stream_steps(self) -> int:
        """Steps for which the data stream can serve samples."""
        return self.num_steps

    @property
    def manifests(self) -> tuple[str, ...]:
        """Manifests of all components of the mixture."""
        return mixture_manifests(self.stream.mixture)

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Folders of the pretrained parts."""
        return self.model.weight_folders

    @property
    def definitions(self) -> Mapping[str, object]:
        """The chat template."""
        return self.model.definitions

    def estimate(self, estimator: Estimator, *, has_tower: bool, count: int) -> StageEstimate:
        """Estimate the training; the steps before a branch are those of the trunk."""
        own = self
        if self.branch_at:
            own = dataclasses.replace(self, num_steps=self.num_steps - self.branch_at)
        return estimator.training(own, has_tower=has_tower, count=count)

    def run(self, context: StageContext) -> None:
        """Train the parts that the freeze policy leaves trainable, and save them."""
        trains_language_model = self.policy.language_model
        is_sharded = self.compute.strategy.is_sharded
        check_combination(
            self.kind,
            optimizer=self.optim.optimizer,
            tuning=self.tuning.kind,
            strategy=self.compute.strategy,
            precision=self.precision,
            trains_language_model=trains_language_model,
        )
        device = training_device(context.trainer.accelerator)
        if self.precision is Precision.FLOAT8_MIXED:
            check_float8(device)
        parts = self._assemble(context, device)
        compute = self.compute
        if parts.attention is not None:
            compute = dataclasses.replace(compute, attention=parts.attention)
        data = MixtureDataModule(
            self.stream,
            chat=parts.chat,
            num_steps=self.stream_steps,
            cache_dir=context.cache,
            features=parts.features,
            transform=parts.transform,
            layout=row_layout(compute.attention, is_gpu=uses_gpu(context.trainer.accelerator)),
            join_images=parts.join_images,
            allow_data_change=context.trainer.allow_data_change,
            ledger_dir=context.folder.path / LEDGER_FOLDER,
        )
        module = VlmModule(
            parts.model, policy=self.policy, optim=self.optim, num_steps=self.num_steps
        )
        if self.precision is not Precision.FLOAT32:
            cast_frozen(parts.model, torch.bfloat16)
        if self.precision is Precision.FLOAT8_MIXED:
            use_float8(parts.model.language_model, is_emulated=device.type == "cpu")
        apply_compute(parts.model, compute, context.trainer.accelerator)
        if self.tuning.dropout and adapter_names(parts.model.language_model):
            module.dropout_seed = self.seed
        if is_sharded:
            module.sharding = Sharding(
                precision=self.precision, load=parts.fill, reduces_once=self.compute.reduce_once
            )
        is_first = fit(
            context,
            module,
            data,
            self,
            strategy=self.compute.strategy,
            trunk=self._trunk_checkpoint(context),
            keep_steps=self.kept_steps,
        )
        self.save_result(context, parts, module, is_writer=is_first)

    def save_result(
        self, context: StageContext, parts: ModelParts, module: VlmModule, *, is_writer: bool
    ) -> None:
        """Save the trained weights; every rank calls this, and one writes."""
        parts.save_trained(
            context.folder.scratch / WEIGHTS, module.freeze_report, is_writer=is_writer
        )

    def _trunk_checkpoint(self, context: StageContext) -> Path | None:
        """Return the checkpoint of the trunk from which the stage continues."""
        if self.branch_at is None:
            return None
        trunk = context.inputs[InputRole(f"{self.kind}_trunk")]
        return checkpoint_at(trunk, self.branch_at).path

    def _assemble(self, context: StageContext, device: torch.device) -> ModelParts:
        """Build the model of the stage with the weights of earlier ones."""
        is_frozen = not self.policy.language_model and self.precision is not Precision.FLOAT32
        dtype = torch.bfloat16 if is_frozen else loading_dtype(self.precision)
        if self.model.ready_made is not None:
            return assemble_ready_made(
                self.model.ready_made,
                tuning=self.tuning,
                policy=self.policy,
                seed=self.seed,
                dtype=dtype,
                device=device,
            )
        return assemble(
            self.model,
            features=cached_features(context),
            tuning=self.tuning,
            trains_language_model=self.policy.language_model,
            seed=self.seed,
            dtype=dtype,
            device=device,
            initial=initial_weights(context),
            is_empty=self.compute.strategy.is_sharded,
        )


def fit(  # noqa: PLR0913 - runtime objects
    context: StageContext,
    module: VlmModule,
    data: MixtureDataModule,
    stage: TrainingRun,
    *,
    strategy: StrategyName = StrategyName.AUTO,
    trunk: Path | None = None,
    keep_steps: Collection[int] = (),
) -> bool:
    """Train from the newest intact checkpoint; returns whether this process is rank 0.

    Args:
        context: The stage run.
        module: Model and optimizer.
        data: Data.
        stage: Fields of the stage.
        strategy: How ranks share the training.
        trunk: Checkpoint of another training that this one continues; None starts at step 0.
        keep_steps: Steps whose checkpoints are written and kept in any case.
    """
    module.agreement_every_n_steps = context.trainer.gradient_agreement_every_n_steps
    checkpoint = latest_checkpoint(context.folder.checkpoints)
    trainer = build_trainer(
        context.folder.path,
        context.trainer,
        stage=stage,
        supervision=Supervision(flag=context.flag, on_hung=context.on_hung),
        strategy=strategy,
        keep_steps=keep_steps,
    )
    if trainer.is_global_zero:
        report = module.freeze_report.table()
        _LOG.info("trainable and frozen parameters:\n%s", report)
        atomic_write_text(context.folder.scratch / FREEZE_REPORT, report)
    path = checkpoint.path if checkpoint else trunk
    trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
    if trainer.is_global_zero:
        stop = stage.num_steps * data.stream.samples_per_step
        write_summary(
            context.folder.path / LEDGER_FOLDER, context.folder.scratch / SUMMARY_NAME, stop=stop
        )
        _write_target_data(context.folder.scratch, data, stage.num_steps)
    return trainer.is_global_zero


def _write_target_data(folder: Path, data: MixtureDataModule, num_steps: int) -> None:
    """Write how much target-language data was trained on, and how often each answer."""
    stream, lengths = data.data.stream, data.data.lengths
    amounts = measure_target_data(stream, lengths, num_steps=num_steps)
    if amounts is None:
        return
    exposures = count_exposures(stream, lengths, num_steps=num_steps)
    if exposures is None:
        _LOG.info("exposures of answers are not counted: the target-language data are remote")
    save_target_data(folder, amounts, exposures)


def cached_features(context: StageContext) -> Path | None:
    """Return the feature cache that a stage reads; None where the tower itself runs."""
    result = context.inputs.get(InputRole.FEATURES)
    return None if result is None else feature_folder(result)


def initial_weights(context: StageContext) -> Sequence[Path]:
    """Return the results of earlier training stages, in order."""
    roles = (InputRole.ALIGN, InputRole.INSTRUCT)
    return [context.inputs[role] for role in roles if role in context.inputs]


def mixture_manifests(mixture: MixtureConfig) -> tuple[str, ...]:
    """Return the manifests of all components, sorted."""
    components = mixture.components.values()
    return tuple(sorted({path for c in components for path in (c.base, c.target) if path}))

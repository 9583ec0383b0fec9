"""Lightning module of all training stages: packed micro-batches, one optimizer step per item.

With manual optimisation, the state of the data is a function of the global step; Lightning's own
accumulation counter would misalign when the world size changes between two runs.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch.distributed.fsdp import FSDPModule

from core.errors import CheckpointError, ConfigError, NotFiniteError
from core.precision import Precision
from core.process.distributed import all_reduce_sum, max_over_ranks
from core.rng import torch_seed
from core.samples import MicroBatch, StepBatch, empty_micro_batch
from datamodules.batches.packing import GROUP_RANKS
from lightning_modules.gradient_agreement import gradient_agreement
from lightning_modules.optim import OptimConfig, build_optimizer, lr_factor
from lightning_modules.precision import check_rotary_frequencies
from lightning_modules.source_losses import SourceLosses
from lightning_modules.strategy import ReplicatedStrategy, ShardedStrategy
from models.any_vlm import AnyVlm
from models.freezing import FreezePolicy, FreezeReport, apply_freeze, cast_all
from models.loss import LossSum
from models.sharding import (
    gather_tensor,
    materialise,
    reduce_gradients,
    shard_model,
    sharding_policy,
)
from models.vlm import VisionLanguageModel

_SOURCE_LOSSES = "source_losses"
"""Key of the state of a checkpoint with the losses by source since the last logged line."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sharding:
    """Settings for sharding a module."""

    precision: Precision
    """Lightning precision of the stage."""
    load: Callable[[VisionLanguageModel], None]
    """Loads the weights that are still missing; every rank loads its own shards."""
    reduces_once: bool = False
    """Whether gradients are reduced once per step; see `models.sharding.reduce_gradients`."""


class VlmModule(lightning.LightningModule):
    """Training of the parts of a vision-language model that a freeze policy selects."""

    def __init__(
        self,
        model: AnyVlm,
        *,
        policy: FreezePolicy,
        optim: OptimConfig,
        num_steps: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.sharding: Sharding | None = None
        """Sharding of the model; set before training with a strategy that shards."""
        self.dropout_seed: int | None = None
        """Seed of the dropout of adapters, whose noise depends on seed, step and rank."""
        self._reduces_once = False
        self.strict_loading = False  # checkpoints lack frozen weights; see on_load_checkpoint
        self.model = model
        self.optim = optim
        self.num_steps = num_steps
        self.freeze_report: FreezeReport = apply_freeze(model, policy)
        self.source_losses = SourceLosses()
        """Loss by source, measured if a callback begins it (callbacks/monitor.py)."""
        self.agreement_every_n_steps = 0
        """Interval of `gradient_agreement` in steps; 0 never measures it."""
        self.step_metrics: dict[str, torch.Tensor | float] = {}
        """Metrics of the last step, logged by callbacks/monitor.py."""

    def configure_model(self) -> None:
        """Shard the model and load its weights if the strategy requires it."""
        if self.device_mesh is None or self.sharding is None:
            return
        if not isinstance(self.model, VisionLanguageModel):
            raise ConfigError("sharding of ready-made models is not supported; set strategy=ddp")
        sharding, self.sharding = self.sharding, None
        if sharding.precision is Precision.BF16_TRUE:
            # Before sharding: FSDP2 keeps the type that parameters had then, whatever is assigned.
            cast_all(self.model, torch.bfloat16)
        mesh = cast(ShardedStrategy, self.trainer.strategy).sharding_mesh
        self._reduces_once = sharding.reduces_once
        shard_model(self.model, mesh, sharding_policy(sharding.precision))
        materialise(self.model, self.trainer.strategy.root_device)
        sharding.load(self.model)

    def on_fit_start(self) -> None:
        """Check that neither strategy nor precision rounded the rotary frequencies."""
        check_rotary_frequencies(self.model)

    def forward(self, micro_batch: MicroBatch) -> torch.Tensor:
        """Return the summed loss over the loss tokens of a micro-batch."""
        loss_sum: torch.Tensor = self.model(micro_batch).loss_sum
        return loss_sum

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Run one optimizer step on the mean loss over the loss tokens of all ranks."""
        del batch_idx
        if self.dropout_seed is not None:  # dropout draws from the global generator
            names = ("dropout", self.trainer.global_step, self.global_rank)
            torch.manual_seed(torch_seed(self.dropout_seed, *names))
        optimizer = cast(LightningOptimizer, self.optimizers())
        numbers = [batch.num_loss_tokens, *self.source_losses.count_tokens(batch.micro_batches)]
        totals = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        num_loss_tokens, *source_counts = all_reduce_sum(totals).tolist()
        num_loss_tokens = max(num_loss_tokens, 1.0)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        agreement = self._measure_agreement(batch)
        micro_batches = self._equally_many(batch.micro_batches)
        last = len(micro_batches) - 1
        for index, micro_batch in enumerate(micro_batches):
            with self._gradient_sync(is_last=index == last):
                loss_of_batch: LossSum = self.model(micro_batch)
                # DDP and FSDP average gradients over ranks; world_size undoes it.
                scale = self.trainer.world_size / num_loss_tokens
                self.manual_backward(loss_of_batch.loss_sum * scale)
            loss_sum += loss_of_batch.loss_sum.detach().double()
            self.source_losses.add(micro_batch, loss_of_batch.token_losses_K)
        loss = (all_reduce_sum(loss_sum) / num_loss_tokens).float()
        self.source_losses.end_step(source_counts)
        grad_norm = self._clip_gradients(optimizer, loss)
        optimizer.step()
        # See ReplicatedStrategy. Elsewhere, the memory of gradients is free between two steps.
        is_replicated = isinstance(self.trainer.strategy, ReplicatedStrategy)
        optimizer.zero_grad(set_to_none=not is_replicated)
        scheduler = cast(torch.optim.lr_scheduler.LambdaLR, self.lr_schedulers())
        lr = scheduler.get_last_lr()[0]
        scheduler.step()
        steps = {"train/loss": loss, "train/grad_norm": grad_norm, "train/lr": lr}
        self.step_metrics = {**steps, **agreement}

    def configure_optimizers(self) -> Any:
        """Build the optimizer over the trainable parameters and its schedule."""
        optimizer = build_optimizer(self.parameters(), self.optim)
        factor = partial(lr_factor, num_steps=self.num_steps, config=self.optim)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, factor)]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove frozen weights, which are inputs of the stage and part of its address."""
        checkpoint["state_dict"] = {
            name: value
            for name, value in checkpoint["state_dict"].items()
            if name in self._trainable_names()
        }
        checkpoint[_SOURCE_LOSSES] = self.source_losses.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Reject a checkpoint of another freeze policy or model.

        Raises:
            CheckpointError: If its parameters are not those this stage trains.
        """
        self.check_saved_names(set(checkpoint["state_dict"]))
        self.source_losses.restore(checkpoint.get(_SOURCE_LOSSES, {}))

    def check_saved_names(self, saved: set[str]) -> None:
        """Check the names of the weights in a checkpoint; see `on_load_checkpoint`."""
        expected = self._trainable_names()
        if saved != expected:
            raise CheckpointError(
                f"checkpoint does not match the stage: missing {sorted(expected - saved)[:3]}, "
                f"unexpected {sorted(saved - expected)[:3]}; start the stage in a new store"
            )

    def _trainable_names(self) -> set[str]:
        return {name for name, value in self.named_parameters() if value.requires_grad}

    def _measure_agreement(self, batch: StepBatch) -> dict[str, float]:
        """Return the agreement of the languages' gradients if it is due in this step."""
        every = self.agreement_every_n_steps
        if not every or (self.trainer.global_step + 1) % every:
            return {}
        return gradient_agreement(self.model, batch.micro_batches, self.source_losses.languages)

    def _equally_many(self, micro_batches: Sequence[MicroBatch]) -> Sequence[MicroBatch]:
        """Add empty micro-batches until all ranks have the same number.

        Ranks that are planned together have it already; groups of ranks may differ.
        """
        if self.trainer.world_size <= GROUP_RANKS:
            return micro_batches
        missing = max_over_ranks(len(micro_batches), self.device) - len(micro_batches)
        return [*micro_batches, *[empty_micro_batch().to(self.device)] * missing]

    def _gradient_sync(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context of one backward pass, in which gradients are reduced if necessary.

        DDP reduces them once per step. FSDP2 reduces them in every micro-batch, unless
        `compute.reduce_once` is set, because Lightning's strategy can only block DDP.
        """
        if isinstance(self.model, FSDPModule):
            reduce_gradients(self.model, is_last=is_last, once_per_step=self._reduces_once)
            return contextlib.nullcontext()
        block = getattr(self.trainer.strategy, "block_backward_sync", None)
        if is_last or block is None:
            return contextlib.nullcontext()
        return cast(contextlib.AbstractContextManager[None], block())

    def _clip_gradients(self, optimizer: LightningOptimizer, loss: torch.Tensor) -> torch.Tensor:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        limit = self.optim.grad_clip or float("inf")
        norm = gather_tensor(torch.nn.utils.clip_grad_norm_(parameters, limit))
        if not math.isfinite(norm):  # before the step, which would spoil the weights
            raise NotFiniteError(
                f"step {self.trainer.global_step}: the loss is {float(loss):g}, its gradient norm "
                f"{float(norm):g}; lower optim.lr, set optim.grad_clip, or inspect the samples of "
                "this step (python -m experiments.inspect_stream)"
            )
        return norm

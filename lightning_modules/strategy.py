"""Lightning strategies for one or several devices."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from core.errors import ConfigError
from core.snapshots import copy_to_cpu, count_bytes
from lightning_modules.compute import StrategyName
from lightning_modules.shard_index import ShardWriter
from lightning_modules.shard_plan import UniformPlanner, choose_planner

_META = "meta.pt"
"""Lightning's file for everything except weights and optimizers (loops, schedulers, data)."""


def build_strategy(
    accelerator: str,
    devices: int,
    *,
    num_nodes: int = 1,
    name: StrategyName = StrategyName.AUTO,
    timeout_s: float = 1800.0,
) -> Strategy | str:
    """Build the Lightning strategy: the default for one device; DDP, FSDP2 or HSDP for several.

    Every micro-batch uses every trained parameter (see `VisionLanguageModel.forward`), so DDP does
    not need to search for unused ones, and sharded ranks do not deadlock.

    Args:
        accelerator: Lightning's name of the accelerator.
        devices: Number of processes per node.
        num_nodes: Number of nodes.
        name: Distribution of the work over the devices.
        timeout_s: Time after which a collective fails.

    Raises:
        ConfigError: If the number of devices or nodes is below 1.
    """
    if min(devices, num_nodes) < 1:
        raise ConfigError(
            f"trainer.devices and trainer.num_nodes must be at least 1, got {devices}, {num_nodes}"
        )
    backend, timeout = "gloo" if accelerator == "cpu" else "nccl", timedelta(seconds=timeout_s)
    if name.is_sharded:
        replicas = num_nodes if name is StrategyName.HSDP else 1
        return ShardedStrategy(
            devices * num_nodes, replicas=replicas, process_group_backend=backend, timeout=timeout
        )
    if devices * num_nodes == 1:
        return "auto"
    return ReplicatedStrategy(
        process_group_backend=backend,
        timeout=timeout,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )


class ReplicatedStrategy(DDPStrategy):
    """DDP whose gradients are the buffers in which they are reduced, not copies of them.

    Gradients must never be set to None: new ones would exist next to the buffers until the end of
    the step (`zero_grad(set_to_none=False)`).
    """

    def _setup_model(self, model: torch.nn.Module) -> DistributedDataParallel:
        """Wrap a model that has gradients, so that the first step has no copies either."""
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        return super()._setup_model(model)


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all ranks or groups of them, with checkpoints of trained weights only.

    A checkpoint is a folder with one file per rank; any number of ranks can load it.
    """

    def __init__(
        self, num_ranks: int, *, replicas: int = 1, process_group_backend: str, timeout: timedelta
    ) -> None:
        """Shard over groups of neighbouring ranks; there are `replicas` groups."""
        super().__init__(
            data_parallel_size=num_ranks,
            tensor_parallel_size=1,
            save_distributed_checkpoint=True,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self._replicas = replicas
        self._taken: tuple[dict[str, Any], dict[str, Any], Path] | None = None

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return this rank's shards of the trained weights on the CPU."""
        options = StateDictOptions(cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self._wrapped, options=options)

    def setup_environment(self) -> None:
        """Start the processes, and a separate group for the threads that write checkpoints."""
        super().setup_environment()
        self._writers = dist.new_group(backend="gloo")
        self.sharding_mesh = self.device_mesh["data_parallel"]
        """Mesh of the ranks that share a model; two-dimensional (replicas, shards) under HSDP."""
        if self._replicas > 1:
            shape = (self._replicas, self.world_size // self._replicas)
            names = ("replicas", "shards")
            kind = self.root_device.type
            self.sharding_mesh = init_device_mesh(kind, shape, mesh_dim_names=names)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any = None
    ) -> None:
        """Copy this rank's part of the state for `take`."""
        del storage_options
        path = Path(self.broadcast(filepath))
        optimizers = enumerate(checkpoint.pop("optimizer_states", []))
        parts = {"state_dict": checkpoint.pop("state_dict")}
        parts |= {f"optimizer_{number}": state for number, state in optimizers}
        copied = copy_to_cpu(parts, shared_with=self._live_tensors())
        self._taken = (copied, copy_to_cpu(checkpoint), path)

    def take(self) -> tuple[Callable[[], None] | None, int]:
        """Return a function that writes the copied state (for every rank), and its bytes here."""
        if self._taken is None:
            return None, 0
        (parts, rest, path), self._taken = self._taken, None
        group, is_first = self._writers, self.is_global_zero

        def open_folder() -> None:
            path.mkdir(exist_ok=True)
            if is_first:
                torch.save(rest, path / _META)

        def write() -> None:
            _on_all_ranks(open_folder, group)
            write_shards(parts, path, group)

        return write, count_bytes(parts)

    def load_checkpoint(
        self,
        checkpoint_path: str | Path,
        weights_only: bool | None = None,  # noqa: ARG002, FBT001 - Lightning's signature
    ) -> dict[str, Any]:
        """Load model and optimizers in place, and return the rest of the checkpoint.

        Raises:
            CheckpointError: If its parameters differ from those this stage trains.
        """
        path = Path(self.broadcast(checkpoint_path))
        saved = _read_weight_names(path)
        self.lightning_module.check_saved_names(saved)  # type: ignore[union-attr, operator]  # VlmModule
        options = StateDictOptions(ignore_frozen_params=True, strict=False)
        ours = get_model_state_dict(self._wrapped, options=options)
        # Tied weights are saved under one of their names only.
        weights = {"state_dict": {name: ours[name] for name in saved}}
        state_dict_loader.load(weights, checkpoint_id=path)
        set_model_state_dict(self._wrapped, weights["state_dict"], options=options)
        for number, optimizer in enumerate(self.optimizers):
            key = f"optimizer_{number}"
            state = {key: get_optimizer_state_dict(self._wrapped, optimizer)}
            state_dict_loader.load(state, checkpoint_id=path)
            set_optimizer_state_dict(self._wrapped, optimizer, optim_state_dict=state[key])
        rest: dict[str, Any] = torch.load(path / _META, weights_only=True)
        return rest | {"state_dict": dict.fromkeys(saved)}

    def _live_tensors(self) -> list[torch.Tensor]:
        """Return every tensor that the next step changes."""
        states = tree_leaves([dict(optimizer.state) for optimizer in self.optimizers])
        moments = [leaf for leaf in states if isinstance(leaf, torch.Tensor)]
        return [*self._wrapped.parameters(), *self._wrapped.buffers(), *moments]

    @property
    def _wrapped(self) -> torch.nn.Module:
        if self.model is None:
            raise RuntimeError("the strategy has no model yet")
        return self.model


def write_shards(parts: dict[str, Any], path: Path, group: dist.ProcessGroup) -> None:
    """Write this rank's part of a state on the CPU into a folder; every rank must call this.

    This runs in a thread, whose current CUDA device is 0 on every rank. torch's default loader
    would ask for the current stream of that device and so open a context on GPU 0 in every process;
    without copies ahead, torch takes the loader that does not touch CUDA.

    """
    planner = choose_planner(parts, group)
    is_uniform = isinstance(planner, UniformPlanner)
    writer = ShardWriter(path) if is_uniform else FileSystemWriter(path, per_thread_copy_ahead=0)
    state_dict_saver.save(parts, storage_writer=writer, planner=planner, process_group=group)


def _on_all_ranks(work: Callable[[], None], group: dist.ProcessGroup) -> None:
    """Run a function on every rank and raise on all of them if it fails on one.

    Raises:
        OSError: If the function fails on any rank.
    """
    fault = ""
    try:
        work()
    except (OSError, RuntimeError) as error:
        fault = f"{type(error).__name__}: {error}"
    faults = [""] * dist.get_world_size(group)
    dist.all_gather_object(faults, fault, group=group)
    for rank, rank_fault in enumerate(faults):
        if rank_fault:
            raise OSError(f"rank {rank}: {rank_fault}")


def _read_weight_names(path: Path) -> set[str]:
    """Read the names of the weights in a sharded checkpoint."""
    metadata: Mapping[str, Any] = FileSystemReader(path).read_metadata().state_dict_metadata
    prefix = "state_dict."
    return {name.removeprefix(prefix) for name in metadata if name.startswith(prefix)}

"""Construction of the launcher that `--launcher` selects."""

import dataclasses
from enum import StrEnum

from configuration.trainer import Accelerator, TrainerConfig
from core.errors import ConfigError
from core.process.machine import available_cores
from core.process.stop import StopFlag
from pipeline.graph import StageNode
from pipeline.grid_plan import GridPlan
from pipeline.launchers.base import Launcher
from pipeline.launchers.devices import GpuPool
from pipeline.launchers.local import LocalLauncher
from pipeline.launchers.slurm import EstimateResources, JobResources, SlurmLauncher, load_slurm
from pipeline.launchers.torchrun import TorchrunLauncher, ranks_here
from pipeline.store.store import Store
from planner.estimator import Estimator
from planner.gpus import get_gpu


class LauncherName(StrEnum):
    """Values of `--launcher`."""

    LOCAL = "local"
    SLURM = "slurm"
    TORCHRUN = "torchrun"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Launcher and number of cores for stage runs."""

    launcher: LauncherName = LauncherName.LOCAL
    num_cores: int = 0
    """Cores of this node to use; 0 uses all cores."""
    slurm: tuple[str, ...] = ()
    """Settings of SLURM jobs as KEY=VALUE."""
    keeps_ranks: bool = False
    """Whether the ranks of torchrun wait for another graph of the same command."""

    def __post_init__(self) -> None:
        """Check the number of cores."""
        if self.num_cores < 0:
            raise ConfigError(f"--jobs must be 0 (all cores) or more, got {self.num_cores}")


def count_slots(trainer: TrainerConfig, options: LaunchOptions) -> int:
    """Return the number of stage runs that run side by side on CPUs of this node, otherwise 0."""
    if options.launcher is not LauncherName.LOCAL or trainer.accelerator is not Accelerator.CPU:
        return 0
    return options.num_cores or available_cores()


def make_launcher(plan: GridPlan, options: LaunchOptions, store: Store, flag: StopFlag) -> Launcher:
    """Return the launcher of a plan.

    Raises:
        ConfigError: If the launcher's settings are invalid or its programs are missing.
    """
    trainer = plan.trainer
    if options.launcher is LauncherName.SLURM:
        return make_slurm_launcher(plan, options, store, flag)
    num_cores = options.num_cores or available_cores()
    if options.launcher is LauncherName.TORCHRUN:
        return TorchrunLauncher(
            store=store,
            graph=plan.graph,
            trainer=ranks_here(trainer),
            flag=flag,
            num_cores=num_cores,
            keeps_ranks=options.keeps_ranks,
        )
    if trainer.num_nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={trainer.num_nodes}: several nodes need --launcher slurm or "
            "torchrun (docs/running/clusters.md)"
        )
    return LocalLauncher(
        store=store,
        graph=plan.graph,
        trainer=trainer,
        flag=flag,
        num_cores=num_cores,
        pool=GpuPool.of(trainer),
    )


def make_slurm_launcher(
    plan: GridPlan, options: LaunchOptions, store: Store, flag: StopFlag
) -> SlurmLauncher:
    """Return the SLURM launcher of a plan.

    Raises:
        ConfigError: If a setting of `--slurm` is invalid, or SLURM is not installed.
    """
    config = load_slurm(options.slurm, plan.trainer)
    estimator = Estimator({}, store.root / "cache") if config.gpu else None
    return SlurmLauncher(
        store=store,
        graph=plan.graph,
        trainer=plan.trainer,
        config=config,
        flag=flag,
        estimate=resource_estimate(estimator, config.gpu, plan.trainer) if estimator else None,
    )


def resource_estimate(estimator: Estimator, gpu: str, trainer: TrainerConfig) -> EstimateResources:
    """Return a function that estimates the time and the memory of a stage run on GPUs of a type.

    Raises:
        ConfigError: If the GPU type is unknown.
    """
    gpu_type = get_gpu(gpu)

    def estimate(node: StageNode) -> JobResources | None:
        count = trainer.devices * trainer.num_nodes if node.stage.is_distributed else 1
        node_estimate = node.estimate(estimator, count=count)
        cost = node_estimate.cost
        if cost is None:
            return None
        time = cost.time(gpu_type, node_estimate.width, count)
        return JobResources(seconds=time.longest_s, host_gib=cost.host_gib)

    return estimate

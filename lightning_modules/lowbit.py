"""Check of the combination of optimizer, fine-tuning method, strategy and precision.

docs/running/gpus.md gives the reasons and their sources.
"""

from core.errors import ConfigError
from core.precision import Precision
from lightning_modules.compute import StrategyName
from lightning_modules.optim import OptimizerName
from models.language.adapters import TuningKind


def check_combination(
    stage: str,
    *,
    optimizer: OptimizerName,
    tuning: TuningKind,
    strategy: StrategyName,
    precision: Precision,
    trains_language_model: bool,
) -> None:
    """Reject a combination that would crash or silently do something else.

    Args:
        stage: Configuration section of the stage, for the message.
        optimizer: Optimizer of the stage.
        tuning: Fine-tuning method of the stage.
        strategy: Strategy of the stage.
        precision: Precision of the stage.
        trains_language_model: False in stage 1, where the language model is frozen.

    Raises:
        ConfigError: If the combination is not supported; the message suggests another one.
    """
    is_sharded = strategy.is_sharded
    if is_sharded and optimizer is OptimizerName.ADAMW_8BIT:
        raise ConfigError(
            f"{stage}.optim.optimizer={optimizer} does not support the sharded weights of "
            f"{stage}.compute.strategy={strategy} (bitsandbytes issue 1633); set optimizer=adamw, "
            "or strategy=ddp (with tuning.kind=lora if the whole model does not fit)"
        )
    if is_sharded and tuning is not TuningKind.FULL:
        raise ConfigError(
            f"{stage}.tuning.kind={tuning} is not supported with {stage}.compute.strategy="
            f"{strategy}, which would gather frozen weights needlessly; set strategy=ddp"
        )
    if tuning is TuningKind.LORA and not trains_language_model:
        raise ConfigError(
            f"{stage}.tuning.kind={tuning}, but the language model is frozen in this stage; set "
            "kind=full, or kind=qlora to keep it in 4 bits"
        )
    if precision is Precision.FLOAT8_MIXED and tuning is not TuningKind.FULL:
        raise ConfigError(
            f"trainer.precision={precision} is not supported with {stage}.tuning.kind={tuning}: "
            "float8 replaces plain linear layers, not adapters and 4-bit weights; set kind=full, "
            "or precision=bf16-mixed"
        )

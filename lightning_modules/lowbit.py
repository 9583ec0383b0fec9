"""Which optimizer, tuning and strategy go together; what doesn't is refused before it costs time.

The reasons, with their sources, are in docs/running/gpus.md.
"""

from core.errors import ConfigError
from lightning_modules.compute import StrategyName
from lightning_modules.optim import OptimizerName
from models.language.adapters import TuningKind


def check_combination(
    stage: str,
    *,
    optimizer: OptimizerName,
    tuning: TuningKind,
    strategy: StrategyName,
    trains_language_model: bool,
) -> None:
    """Refuse what would crash or silently do something else.

    Args:
        stage: where the values stand in the configuration, for the message.
        optimizer: of the stage.
        tuning: of the stage.
        strategy: of the stage.
        trains_language_model: False in stage 1, where it is frozen.

    Raises:
        ConfigError: with the values and what to set in their place.
    """
    is_sharded = strategy.is_sharded
    if is_sharded and optimizer is OptimizerName.ADAMW_8BIT:
        raise ConfigError(
            f"{stage}.optim.optimizer={optimizer} can't step on the sharded weights of "
            f"{stage}.compute.strategy={strategy} (bitsandbytes issue 1633); set optimizer=adamw, "
            "or strategy=ddp (with tuning.kind=lora if the whole model doesn't fit)"
        )
    if is_sharded and tuning is not TuningKind.FULL:
        raise ConfigError(
            f"{stage}.tuning.kind={tuning} is not supported with {stage}.compute.strategy="
            f"{strategy}: frozen weights would be gathered for nothing; set strategy=ddp"
        )
    if tuning is TuningKind.LORA and not trains_language_model:
        raise ConfigError(
            f"{stage}.tuning.kind={tuning}, but the language model is frozen in this stage; set "
            "kind=full, or kind=qlora to keep it in 4 bits"
        )

"""Lightning precision plugins of training stages."""

from typing import Any

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.plugins.precision.precision import Precision as PrecisionPlugin
from torch import nn

from core.errors import ConfigError
from core.precision import Precision
from models.freezing import cast_all


class BfloatWeights(PrecisionPlugin):
    """Plugin for `bf16-true`: weights in bfloat16, buffers as they are.

    Lightning's own plugin casts buffers too, which rounds the rotary frequencies: for Llama-3.1 the
    angle of position 4,000 would be wrong by 7 radians. It also rebuilds every batch, which fails
    on frozen dataclasses, and changes the default type during the step.
    """

    precision = "bf16-true"

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Cast the weights in place."""
        cast_all(module, torch.bfloat16)
        return module


def trainer_arguments(precision: Precision, cluster: ClusterEnvironment) -> dict[str, Any]:
    """Return the arguments `precision` and `plugins` of a Lightning Trainer."""
    if precision is Precision.BF16_TRUE:
        return {"plugins": [cluster, BfloatWeights()]}
    # To Lightning, float8 is a property of the layers that the stage has replaced.
    name = Precision.BF16_MIXED if precision.is_mixed else precision
    return {"plugins": [cluster], "precision": name.value}


def check_rotary_frequencies(module: nn.Module) -> None:
    """Reject a module whose rotary frequencies were rounded.

    Raises:
        ConfigError: If frequencies are not in float32.
    """
    for name, buffer in module.named_buffers():
        if name.endswith("inv_freq") and buffer.dtype is not torch.float32:
            raise ConfigError(
                f"buffer {name} is {buffer.dtype}, expected torch.float32: positions would be "
                "wrong. Cast parameters only (models.freezing.cast_all), not the whole module"
            )

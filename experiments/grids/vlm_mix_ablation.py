"""The share study on ready-made vision-language models: how much target language is enough?"""

from configuration.axes import vary
from configuration.model_config import ModelFamily
from configuration.run_config import RunConfig, Stages
from core.chat.ready_made import OWN_TEMPLATE
from core.errors import ConfigError
from experiments.grids.mix_ablation import SHARES

PROFILE = "modern"
"""The profile of this repository that has ready-made models."""


def cells(base: RunConfig) -> list[RunConfig]:
    """Return every ready-made model of a profile at six shares; stage 1 does not exist for them."""
    models = [name for name, model in base.backbones.items() if model.template == OWN_TEMPLATE]
    if not models:
        raise ConfigError(
            f"no model under `backbones` is a ready-made one (template: {OWN_TEMPLATE}); use "
            f"--profile {PROFILE}, or a profile that has one"
        )
    family = {"model.family": (ModelFamily.HF,)}
    stages = (Stages.INSTRUCT_ONLY,)
    return vary(base, family, stages=stages, backbone=tuple(models), target_share=SHARES)

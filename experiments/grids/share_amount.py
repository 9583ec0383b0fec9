"""Is it the share or the amount of target-language images that matters? Two by two amounts."""

from configuration.axes import vary
from configuration.mixture import expected_manifests
from configuration.run_config import RunConfig
from core.errors import ConfigError
from pipeline.mixture_checks import count_different_images
from pipeline.stages.instruct import InstructStage

_UNITS = 6
"""Parts into which the images of stage 2 are divided."""
_DESIGN = ((3, 3), (1, 5), (3, 1), (1, 3))
"""Units of target-language and of base-language images of each cell.

Fixed total: 3 + 3 against 1 + 5, and 3 + 1 against 1 + 3. Fixed target-language images: 3 + 3
against 3 + 1, and 1 + 5 against 1 + 3. Fixed base-language images: 3 + 3 against 1 + 3. The fixed
part consists of the same images. Every cell passes over its images equally often, so its steps
follow its total.
"""


def cells(base: RunConfig) -> list[RunConfig]:
    """Return four cells, with shares of 50, 17, 75 and 25 %."""
    stage = InstructStage.from_config(base)
    if stage is None:
        raise ConfigError("share_amount varies stage 2, but cell.stages=align_only; set it to both")
    sizes = {path: source.num_samples for path, (source, _) in expected_manifests(base).items()}
    unit = count_different_images(stage, sizes) // _UNITS
    if unit < 1:
        raise ConfigError(
            f"share_amount needs at least {_UNITS} images in stage 2; raise instruct.num_steps"
        )
    return [
        config
        for target, others in _DESIGN
        for config in vary(
            base,
            {"instruct.num_steps": (round(stage.num_steps * (target + others) / _UNITS),)},
            target_samples=(target * unit,),
            base_samples=(others * unit,),
        )
    ]

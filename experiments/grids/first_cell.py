"""Does a model answer in a new language? One short training on the target language alone."""

from configuration.axes import vary
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from evaluation.retention import RetentionConfig

note = (
    "The cell was trained for a few minutes, to see whether it answers in the language; see "
    "mix_ablation for scores."
)
_NUM_STEPS = {"align": 150, "instruct": 700}
"""At most so many steps of each stage. After 200 of stage 2, replies were in the script of a new
language, but most were yes or no."""


def cells(base: RunConfig) -> list[RunConfig]:
    """Return one cell whose images have the target language in both stages.

    It reads the smaller sources of the experiment `smoke`, because encoding all images would take
    longer than the training. Lines that are in the base language in every grid (`base_only`) stay.
    """
    values: dict[str, object] = {"retention": RetentionConfig(), "align.target_share": 1.0}
    for name, num_steps in _NUM_STEPS.items():
        stage = getattr(base, name)
        values[f"{name}.num_steps"] = min(num_steps, stage.num_steps)
        for line, config in stage.visual.items():
            is_replaced = config.source in base.data.sources
            if config.source in base.data.smoke_sources and not is_replaced:
                smaller = base.data.smoke_sources[config.source]
                values[f"{name}.visual.{line}.source"] = smaller
    return vary(replace_fields(base, values), target_share=(1.0,))

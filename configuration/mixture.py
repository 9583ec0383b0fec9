"""From a stage's lines to the components of its mixture stream.

Kept apart from `specs`: what "inside" and fractions of the training mean is settled here, so that
the stream only ever sees steps and samples.
"""

import itertools
from collections.abc import Mapping
from fractions import Fraction

from configuration.run_config import (
    ExpectedSource,
    MixtureLineConfig,
    RunConfig,
    TextOnly,
    TrainConfig,
)
from core.errors import ConfigError
from datamodules.mixture.config import ComponentConfig, Phase, ShareOf
from datamodules.mixture.schedule import MAX_DENOMINATOR


def stage_components(
    config: RunConfig, stage: TrainConfig, *, text_only: Mapping[str, MixtureLineConfig]
) -> dict[str, ComponentConfig]:
    """The components of a stage by name.

    Raises:
        ConfigError: a line that can't be run, or text that does not fit inside.
    """
    visual = {name: _parallel(config, stage, name) for name in used_lines(stage.visual)}
    used_text = used_lines(text_only)
    text = {name: _target_only(config, stage, name, line) for name, line in used_text.items()}
    if text and stage.text_only_as is TextOnly.INSIDE:
        visual = _make_room(visual, text)
    return visual | text


def used_lines(lines: Mapping[str, MixtureLineConfig]) -> dict[str, MixtureLineConfig]:
    """Those that ever give a sample; the manifests of the others need not be there."""
    return {
        name: line
        for name, line in lines.items()
        if line.samples_per_step or any(phase.samples_per_step for phase in line.phases)
    }


def manifest_path(config: RunConfig, source: str) -> str:
    """The manifest of a source of the configured data folder."""
    return f"{config.data.folder}/{source}.manifest.json"


def expected_manifests(config: RunConfig) -> dict[str, tuple[ExpectedSource, str]]:
    """Path of each manifest that a plan may do without -> what stands for it, and its language."""
    found: dict[str, tuple[ExpectedSource, str]] = {}
    for name, source in config.data.expected.items():
        if name == config.data.benchmark:
            found[manifest_path(config, name)] = (source, config.languages.target)
            continue
        for language in source.text_tokens:
            found[manifest_path(config, f"{name}_{language}")] = (source, language)
    return found


def _parallel(config: RunConfig, stage: TrainConfig, name: str) -> ComponentConfig:
    line, languages = stage.visual[name], config.languages
    share = config.cell.target_share if stage.target_share is None else stage.target_share
    return ComponentConfig(
        base=manifest_path(config, f"{line.source}_{languages.base}"),
        target=manifest_path(config, f"{line.source}_{languages.target}"),
        target_share=share,
        samples_per_step=line.samples_per_step,
        max_epochs=line.max_epochs,
        share_of=ShareOf(line.share_of),
        phases=_phases(line, stage.num_steps),
    )


def _target_only(
    config: RunConfig, stage: TrainConfig, name: str, line: MixtureLineConfig
) -> ComponentConfig:
    shares = [phase for phase in line.phases if phase.target_share is not None]
    if shares or line.share_of is not ShareOf.SAMPLES:
        raise ConfigError(
            f"text_only.{name} is in the target language alone; leave share_of and the phases' "
            "target_share out"
        )
    return ComponentConfig(
        base=manifest_path(config, f"{line.source}_{config.languages.target}"),
        samples_per_step=line.samples_per_step,
        max_epochs=line.max_epochs,
        phases=_phases(line, stage.num_steps),
    )


def _phases(line: MixtureLineConfig, num_steps: int) -> list[Phase]:
    return [
        Phase(
            from_step=phase.first_step(num_steps),
            samples_per_step=phase.samples_per_step,
            target_share=phase.target_share,
        )
        for phase in line.phases
    ]


def _make_room(
    visual: Mapping[str, ComponentConfig], text: Mapping[str, ComponentConfig]
) -> dict[str, ComponentConfig]:
    """Shrink the image components alike by what the text takes, phase by phase."""
    parts = [*visual.values(), *text.values()]
    steps = sorted({0, *(phase.from_step for part in parts for phase in part.phases)})
    left = {step: _fraction_left(visual, text, step) for step in steps}
    return {name: _shrink(name, part, left) for name, part in visual.items()}


def _fraction_left(
    visual: Mapping[str, ComponentConfig], text: Mapping[str, ComponentConfig], step: int
) -> Fraction:
    images, texts = (
        sum((_exact(part.at(step)[0]) for part in parts.values()), start=Fraction(0))
        for parts in (visual, text)
    )
    if texts >= images:
        raise ConfigError(
            f"text_only_as=inside: {float(texts):g} text samples do not fit into the "
            f"{float(images):g} image samples of step {step}; lower text_only, raise visual or "
            "set text_only_as=on_top"
        )
    return 1 - texts / images


def _shrink(name: str, part: ComponentConfig, left: Mapping[int, Fraction]) -> ComponentConfig:
    now = {step: _shrunk(name, part.at(step)[0], fraction) for step, fraction in left.items()}
    shares = {phase.from_step: phase.target_share for phase in part.phases}
    steps, phases = sorted(left), []
    for before, step in itertools.pairwise(steps):
        samples = now[step] if now[step] != now[before] else None
        if samples is not None or shares.get(step) is not None:
            phases.append(
                Phase(from_step=step, samples_per_step=samples, target_share=shares.get(step))
            )
    return ComponentConfig(
        base=part.base,
        target=part.target,
        target_share=part.target_share,
        samples_per_step=now[0],
        max_epochs=part.max_epochs,
        share_of=part.share_of,
        phases=phases,
    )


def _shrunk(name: str, samples: float, left: Fraction) -> float:
    shrunk = _exact(samples) * left
    if shrunk.denominator > MAX_DENOMINATOR:
        raise ConfigError(
            f"text_only_as=inside leaves {shrunk} of the {samples:g} samples per step of "
            f"'{name}', expected a denominator up to {MAX_DENOMINATOR}; choose rounder numbers"
        )
    return float(shrunk)


def _exact(samples: float) -> Fraction:
    return Fraction(samples).limit_denominator(MAX_DENOMINATOR)

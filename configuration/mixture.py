"""Conversion of the mixture lines of a stage to the components of its data stream.

Text-only data "inside" the image data and fractions of the training are resolved here, so that the
stream only deals with steps and samples.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from configuration.data_config import ExpectedSource
from configuration.mixture_lines import MixtureLineConfig
from configuration.run_config import (
    RunConfig,
    TextOnly,
    TrainConfig,
)
from configuration.source_places import LineManifests, line_manifests, manifest_path
from core.errors import ConfigError
from datamodules.mixture.config import (
    ComponentConfig,
    MixtureConfig,
    Phase,
    ShareOf,
    TargetSamples,
)
from datamodules.mixture.schedule import MAX_DENOMINATOR


def stage_mixture(
    config: RunConfig, stage: TrainConfig, *, text_only: Mapping[str, MixtureLineConfig]
) -> MixtureConfig:
    """Return the mixture of a stage.

    Raises:
        ConfigError: If a line is invalid, text-only data do not fit inside the image data, or a
            number of samples is combined with something that needs a share.
    """
    own = stage if stage.has_amount else config.cell
    amount = None
    if own.target_samples is not None:
        amount = TargetSamples(
            number=own.target_samples, num_steps=stage.num_steps, num_base=own.base_samples
        )
    return MixtureConfig(
        components=_stage_components(config, stage, text_only),
        seed=config.cell.seed,
        target_samples=amount,
    )


def _stage_components(
    config: RunConfig, stage: TrainConfig, text_only: Mapping[str, MixtureLineConfig]
) -> dict[str, ComponentConfig]:
    """Return the components of a stage by name.

    Raises:
        ConfigError: If a line is invalid, or text-only data do not fit inside the image data.
    """
    if other := set(_line_languages(config)) - {config.languages.second}:
        raise ConfigError(
            f"a line of the mixture has language={min(other)}, but languages.second is "
            f"'{config.languages.second}'; they must agree"
        )
    visual = {name: _parallel_component(config, stage, name) for name in used_lines(stage.visual)}
    used_text = used_lines(text_only)
    text = {name: _text_component(config, stage, name, line) for name, line in used_text.items()}
    if text and stage.text_only_as is TextOnly.INSIDE:
        visual = _make_room(visual, text)
    return visual | text


def trained_languages(config: RunConfig) -> tuple[str, ...]:
    """Return the languages of the training data of a cell."""
    return (config.languages.base, config.languages.target, *_line_languages(config))


def check_second_language(configs: Sequence[RunConfig]) -> None:
    """Check that a second target language has an effect on the cells of a grid.

    Raises:
        ConfigError: If no line of any cell is in it.
    """
    second = configs[0].languages.second if configs else ""
    if second and not any(_line_languages(config) for config in configs):
        raise ConfigError(
            f"languages.second={second} has no effect, because no line of the mixture is in it; "
            "use --exp language_pair, or set the `language` of lines"
        )


def _line_languages(config: RunConfig) -> list[str]:
    """Return the languages that lines of the mixture name, sorted."""
    sections = (config.align, config.instruct)
    lines = [line for s in sections for line in (*s.visual.values(), *s.text_only.values())]
    return sorted({line.language for line in lines} - {""})


def used_lines(lines: Mapping[str, MixtureLineConfig]) -> dict[str, MixtureLineConfig]:
    """Return the lines that contribute samples; manifests of other lines need not exist."""
    return {
        name: line
        for name, line in lines.items()
        if line.samples_per_step or any(phase.samples_per_step for phase in line.phases)
    }


def benchmark_manifests(config: RunConfig) -> tuple[str, ...]:
    """Return the paths of the benchmarks' manifests, the main one first."""
    return tuple(manifest_path(config, name) for name in config.data.benchmarks)


def out_of_domain_manifests(config: RunConfig) -> tuple[str, ...]:
    """Return the paths of the out-of-domain benchmarks' manifests that exist."""
    paths = (manifest_path(config, name) for name in config.data.out_of_domain)
    return tuple(path for path in paths if Path(path).is_file())


def expected_manifests(config: RunConfig) -> dict[str, tuple[ExpectedSource, str]]:
    """Return the manifests that a plan can do without: path -> expected source and its language."""
    found: dict[str, tuple[ExpectedSource, str]] = {}
    for name, source in config.data.expected.items():
        if name in config.data.benchmarks:
            found[manifest_path(config, name)] = (source, config.languages.target)
            continue
        for language in source.text_tokens:
            found[manifest_path(config, f"{name}_{language}")] = (source, language)
    return found


def image_manifests(config: RunConfig) -> list[str]:
    """Return the manifest of every image source of both stages, for its images.

    Raises:
        ConfigError: If the location of a source has none.
    """
    return [
        line_manifests(config, name, line, has_images=True).images
        for stage in (config.align, config.instruct)
        for name, line in used_lines(stage.visual).items()
    ]


def single_language_notes(configs: Iterable[RunConfig]) -> list[str]:
    """Say which image lines are served in one language because their source has no other."""
    notes = dict[str, None]()
    for config in configs:
        for stage in (config.align, config.instruct):
            for name, line in used_lines(stage.visual).items():
                found = line_manifests(config, name, line, has_images=True)
                if found.base and found.target:
                    continue
                notes[
                    f"{name}: {found.base or found.target} has no parallel source, so it is served "
                    "in its own language at every share of the target language"
                ] = None
    return list(notes)


def _parallel_component(config: RunConfig, stage: TrainConfig, name: str) -> ComponentConfig:
    line = stage.visual[name]
    found = line_manifests(config, name, line, has_images=True)
    if line.base_only:
        if not found.base:
            raise ConfigError(
                f"visual.{name} has base_only, but its source in data.sources is in "
                f"{config.languages.target} only; remove base_only or give another source"
            )
        found = LineManifests(base=found.base)
    share = (stage if stage.has_amount else config.cell).target_share
    is_parallel = bool(found.base and found.target)
    component = ComponentConfig(
        base=found.base or found.target,
        target=found.target if is_parallel else "",
        # With a number of samples, the stream chooses them.
        target_share=(share or 0.0) if is_parallel else 0.0,
        samples_per_step=line.samples_per_step,
        max_epochs=line.max_epochs,
        share_of=ShareOf(line.share_of),
        phases=_convert_phases(line, stage.num_steps),
    )
    has_number = (stage if stage.has_amount else config.cell).target_samples is not None
    return component if has_number else _without_missing_language(component)


def _without_missing_language(component: ComponentConfig) -> ComponentConfig:
    """Remove the language of a parallel component that no phase uses if it does not exist."""
    used = component.used_manifests()
    if not component.target or len(used) != 1 or not Path(used[0]).is_file():
        return component
    (unused,) = {component.base, component.target} - {used[0]}
    if Path(unused).is_file():
        return component
    phases = [
        dataclasses.replace(phase, target_share=None)
        for phase in component.phases
        if phase.samples_per_step is not None
    ]
    return dataclasses.replace(
        component,
        base=used[0],
        target="",
        target_share=0.0,
        share_of=ShareOf.SAMPLES,
        phases=phases,
    )


def _text_component(
    config: RunConfig, stage: TrainConfig, name: str, line: MixtureLineConfig
) -> ComponentConfig:
    shares = [phase for phase in line.phases if phase.target_share is not None]
    if line.base_only:
        raise ConfigError(f"text_only.{name} has target-language data only; remove base_only")
    if shares or line.share_of is not ShareOf.SAMPLES:
        raise ConfigError(
            f"text_only.{name} has target-language data only; remove share_of and the "
            "target_share of its phases"
        )
    target = line_manifests(config, name, line, has_images=False).target
    if not target:
        raise ConfigError(
            f"text_only.{name}: its source in data.sources is not in {config.languages.target}; "
            "text-only lines hold the target language"
        )
    return ComponentConfig(
        base=target,
        samples_per_step=line.samples_per_step,
        max_epochs=line.max_epochs,
        phases=_convert_phases(line, stage.num_steps),
    )


def _convert_phases(line: MixtureLineConfig, num_steps: int) -> list[Phase]:
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
    """Reduce all image components by the same fraction to make room for text, phase by phase."""
    parts = [*visual.values(), *text.values()]
    steps = sorted({0, *(phase.from_step for part in parts for phase in part.phases)})
    left = {step: _fraction_left(visual, text, step) for step in steps}
    return {name: _scale_component(name, part, left) for name, part in visual.items()}


def _fraction_left(
    visual: Mapping[str, ComponentConfig], text: Mapping[str, ComponentConfig], step: int
) -> Fraction:
    images, texts = (
        sum((_exact_rate(part.at(step)[0]) for part in parts.values()), start=Fraction(0))
        for parts in (visual, text)
    )
    if texts >= images:
        raise ConfigError(
            f"text_only_as=inside: {float(texts):g} text samples do not fit into the "
            f"{float(images):g} image samples of step {step}; lower text_only, raise visual or "
            "set text_only_as=on_top"
        )
    return 1 - texts / images


def _scale_component(
    name: str, part: ComponentConfig, left: Mapping[int, Fraction]
) -> ComponentConfig:
    now = {
        step: _scale_samples(name, part.at(step)[0], fraction) for step, fraction in left.items()
    }
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


def _scale_samples(name: str, samples: float, left: Fraction) -> float:
    scaled = _exact_rate(samples) * left
    if scaled.denominator > MAX_DENOMINATOR:
        raise ConfigError(
            f"text_only_as=inside leaves {scaled} of the {samples:g} samples per step of "
            f"'{name}'; the denominator must be at most {MAX_DENOMINATOR}, choose simpler fractions"
        )
    return float(scaled)


def _exact_rate(samples: float) -> Fraction:
    return Fraction(samples).limit_denominator(MAX_DENOMINATOR)

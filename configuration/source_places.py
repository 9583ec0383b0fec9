"""Locations of the manifests of a run: data folders, absolute names, and replaced sources."""

import dataclasses
from pathlib import Path

from configuration.converted_tables import convert_tables
from configuration.data_config import LanguagesConfig
from configuration.mixture_lines import MixtureLineConfig
from configuration.replacing import replace_fields
from configuration.run_config import RunConfig
from core.errors import ConfigError
from datamodules.shards.manifest import SUFFIX, Modality, load_manifest
from evaluation.retention import TEXT_PREFIX


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LineManifests:
    """Manifests of a line of a mixture, by the role of their language."""

    base: str = ""
    """Manifest in the base language; "" if the line has none."""
    target: str = ""
    """Manifest in the target language; "" if the line has none."""

    @property
    def images(self) -> str:
        """The manifest that lists the images, which both languages share."""
        paths = [path for path in (self.base, self.target) if path]
        return next((path for path in paths if Path(path).is_file()), paths[0])


def manifest_path(config: RunConfig, name: str) -> str:
    """Return the path of a manifest by its name, such as `text_eu`.

    An absolute name is a path without its suffix. Any other is looked for in `data.folder`, then in
    `data.folders`; the first of them stands for a manifest that does not exist.
    """
    if Path(name).is_absolute():
        return f"{name}{SUFFIX}"
    paths = [f"{folder}/{name}{SUFFIX}" for folder in (config.data.folder, *config.data.folders)]
    return next((path for path in paths if Path(path).is_file()), paths[0])


def with_language_tasks(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """Fill the languages of the run into the retention tasks, `{base}` and `{target}`.

    Such a task about running text is left out if the data are here and have none in its language.

    Returns:
        The configuration, and the tasks that were left out.
    """
    tasks, left_out = list[str](), list[str]()
    for task in config.retention.tasks:
        name = task.replace("{base}", config.languages.base)
        name = name.replace("{target}", config.languages.target)
        manifest = manifest_path(config, name.removeprefix(TEXT_PREFIX))
        is_missing = Path(config.data.folder).is_dir() and not Path(manifest).is_file()
        if name != task and name.startswith(TEXT_PREFIX) and is_missing:
            left_out.append(name)
        else:
            tasks.append(name)
    return replace_fields(config, {"retention.tasks": tasks}), left_out


def line_manifests(
    config: RunConfig, name: str, line: MixtureLineConfig, *, has_images: bool
) -> LineManifests:
    """Return the manifests of a line of a mixture.

    Args:
        config: Configuration of the cell.
        name: Name of the line.
        line: The line.
        has_images: Whether its samples have images.

    Raises:
        ConfigError: If the location in `data.sources` has no source, several, or one in other
            languages than those of the run.
        DataError: If a manifest there is damaged.
    """
    languages = LanguagesConfig(
        base=config.languages.base, target=line.language or config.languages.target
    )
    key = line.source if line.source in config.data.sources else name
    if key in config.data.sources:
        place = config.data.sources[key]
        return _manifests_at(f"data.sources.{key}={place}", place, languages, has_images=has_images)
    return LineManifests(
        base=manifest_path(config, f"{line.source}_{languages.base}"),
        target=manifest_path(config, f"{line.source}_{languages.target}"),
    )


def _manifests_at(
    where: str, place: str, languages: LanguagesConfig, *, has_images: bool
) -> LineManifests:
    """Return the manifests of the source at a location, in the languages of the run."""
    modality = Modality.IMAGE_TEXT if has_images else Modality.TEXT
    sources: dict[str, dict[str, str]] = {}
    found = [] if "://" in place else _find_manifests(Path(place), is_file=place.endswith(SUFFIX))
    for path in found or convert_tables(where, place, (languages.base, languages.target)):
        manifest = load_manifest(path)
        if manifest.modality is modality:
            stem = manifest.name.removesuffix(f"_{manifest.language}")
            sources.setdefault(stem, {})[manifest.language] = str(path)
    if not sources:
        raise ConfigError(
            f"{where} has no manifest of {modality} data; give a folder with one source, or "
            "FOLDER/NAME for FOLDER/NAME_LANGUAGE.manifest.json or .parquet. Create it with python "
            "-m data_prep.from_llava (JSON, Parquet, CSV) or data_prep.index (WebDataset)"
        )
    if len(sources) > 1:
        raise ConfigError(
            f"{where} has {len(sources)} sources of {modality} data: {', '.join(sorted(sources))}; "
            "give FOLDER/NAME instead of the folder"
        )
    (by_language,) = sources.values()
    base, target = (by_language.get(one, "") for one in (languages.base, languages.target))
    if not base and not target:
        raise ConfigError(
            f"{where} is in {', '.join(sorted(by_language))}, but the languages of the run are "
            f"{languages.base} and {languages.target}; set languages.base or languages.target"
        )
    return LineManifests(base=base, target=target)


def _find_manifests(place: Path, *, is_file: bool) -> list[Path]:
    if is_file:
        return [place]
    if place.is_dir():
        return sorted(path for path in place.iterdir() if path.name.endswith(SUFFIX))
    prefix = f"{place.name}_"
    if not place.parent.is_dir():
        return []
    paths = (path for path in place.parent.iterdir() if path.name.endswith(SUFFIX))
    names = ((path, path.name.removesuffix(SUFFIX)) for path in paths)
    # NAME_text_eu is another source than NAME.
    return sorted(
        path
        for path, name in names
        if name.startswith(prefix) and "_" not in name.removeprefix(prefix)
    )

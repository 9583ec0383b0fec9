"""Builder of the benchmarks of photographs from Debian packages."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.images import decode_image
from data_prep.choice_checks import TextOnlyRule, check_text_only
from data_prep.embedded.build import NAMES_LICENCE, BuildPlan
from data_prep.embedded.concepts import load_catalogue
from data_prep.embedded.packages import PackageFolder
from data_prep.embedded.wordings import load_languages
from data_prep.photographs.gcompris import GCOMPRIS, read_photographs
from data_prep.photographs.items import Items, Planner, usable_titles
from data_prep.photographs.naming import name_photographs
from data_prep.photographs.photograph import ENGLISH, Photograph
from data_prep.photographs.tuxpaint import TUX_PAINT, read_stamps
from data_prep.shards.folder_metadata import write_metadata
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality
from evaluation.benchmarks.gate import ItemGate
from evaluation.benchmarks.items import Benchmark

PHOTOS = "photos"
DESCRIPTIONS = "photo_descriptions"

_PHOTOS_PER_SHARD = 1000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuiltBenchmark:
    """A benchmark on disk."""

    manifest: Path
    num_photos: int
    num_items: dict[str, int]
    """Kind and question type -> number of questions per language."""
    rules: dict[str, tuple[TextOnlyRule, ...]]
    """Language -> how far its multiple-choice questions can be answered without images."""


def build_photos(
    packages: PackageFolder,
    folder: Path,
    languages: Sequence[str],
    *,
    seed: int = 0,
    num_concepts: int = BuildPlan().num_concepts,
    report: Callable[[str], None] = lambda _: None,
) -> list[BuiltBenchmark]:
    """Write both benchmarks of photographs and return them.

    Args:
        packages: Folder of the packages; missing ones are downloaded.
        folder: Folder of the shards and manifests.
        languages: Languages of the questions, the base language first.
        seed: Seed of all random choices.
        num_concepts: Number of concepts whose photographs are asked for their name.
        report: Receives a line about what was left out.

    Raises:
        DataError: If a package can't be read, or no photograph has texts in all languages.
    """
    wanted = list(dict.fromkeys((*languages, ENGLISH)))  # English names find the concepts
    all_languages = load_languages(wanted)
    asked = tuple(one for one in all_languages if one.code in languages)
    photographs = [
        *read_photographs(packages, wanted),
        *read_stamps(packages, wanted),
    ]
    if not photographs:
        raise DataError(f"no photograph has texts in all of {', '.join(wanted)}")
    titled = usable_titles(photographs)
    report(
        f"{len(photographs)} photographs with texts in {', '.join(wanted)}; "
        f"{len(photographs) - len(titled)} of them have no title that is short enough to ask about"
    )
    planner = Planner(asked, seed)
    catalogue = load_catalogue(packages, all_languages, num_concepts)
    items = planner.title_items(titled)
    for key, found in planner.name_items(name_photographs(titled, catalogue)).items():
        items.setdefault(key, []).extend(found)
    writer = _Writer(folder=folder, languages=tuple(languages), packages=packages)
    built = [writer.write(PHOTOS, titled, items, names_licence=NAMES_LICENCE)]
    if described := planner.description_items(photographs):
        built.append(writer.write(DESCRIPTIONS, photographs, described))
    write_metadata(folder, PHOTOS)
    return built


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Writer:
    """Writes benchmarks into a folder after the gate of every import."""

    folder: Path
    languages: tuple[str, ...]
    packages: PackageFolder

    def write(
        self,
        name: str,
        photographs: Sequence[Photograph],
        items: Items,
        *,
        names_licence: str = "",
    ) -> BuiltBenchmark:
        """Check and write the photographs that have items."""
        gates = {kind.value: ItemGate(kind, self.languages) for kind in Benchmark}
        samples = []
        for photograph in photographs:
            for item in items.get(photograph.key, ()):
                gates[item["benchmark"]].check(item, name)
            if photograph.key in items:
                decode_image(photograph.image)  # now rather than in the middle of an evaluation
                content = {"items": items[photograph.key]}
                samples.append(
                    ShardSample(key=photograph.key, content=content, image=photograph.image)
                )
        flat = [item for sample in samples for item in sample.content["items"]]
        rules = check_text_only(flat)
        used = {sample.key.partition("-")[0] for sample in samples}
        sources = [package for package in (GCOMPRIS, TUX_PAINT) if package.key in used]
        licences = {package.licence for package in sources} | ({names_licence} - {""})
        num_items = _count(flat)
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = name.replace("_", "-")
        shards = write_shards(self.folder, prefix, samples, per_shard=_PHOTOS_PER_SHARD)
        info = SourceInfo(
            name=name,
            language=",".join(self.languages),
            modality=Modality.BENCHMARK,
            record="items",
            licence=" AND ".join(sorted(licences)),
            provenance={
                "debian_packages": [
                    self.packages.debian_archive(package.name).name for package in sources
                ]
            },
            statistics={
                "num_pictures": len(samples),
                "num_items": num_items,
                "text_only_accuracy": {
                    language: {rule.name: round(rule.accuracy, 4) for rule in found}
                    for language, found in rules.items()
                },
            },
        )
        manifest = write_manifest(self.folder, info, shards)
        return BuiltBenchmark(
            manifest=manifest, num_photos=len(samples), num_items=num_items, rules=rules
        )


def _count(items: Sequence[dict[str, Any]]) -> dict[str, int]:
    kinds = Counter(f"{item['benchmark']}/{item['question_type']}" for item in items)
    return dict(sorted(kinds.items()))

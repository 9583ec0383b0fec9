"""Builder of the embedded data: captions, instructions, running text and the benchmark.

A plan determines every byte: all random choices come from named generators with the plan's seed.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.random import Generator

from core.chat.tokens import IMAGE_MARK
from core.rng import named_rng
from data_prep.embedded import running_text
from data_prep.embedded.benchmark import BenchmarkPlanner
from data_prep.embedded.benchmark_items import BenchmarkQuestion, word_item
from data_prep.embedded.concepts import load_catalogue
from data_prep.embedded.conversations import (
    Chat,
    chat_records,
    make_chat,
    scene_questions,
    single_questions,
    word_caption,
    word_turns,
)
from data_prep.embedded.drawings import TRAIN_STYLES, Painter, Style, StyledIcon
from data_prep.embedded.knowledge import NUM_PER_TYPE, KnowledgePlanner, KnowledgeQuestion
from data_prep.embedded.packages import PackageFolder, read_lock
from data_prep.embedded.questions import Asker, Question, pick
from data_prep.embedded.running_text import ParallelText
from data_prep.embedded.scenes import Combination, Scene, SceneMaker, balanced_patterns
from data_prep.embedded.votes import Voter
from data_prep.embedded.wordings import load_languages
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality, ShardEntry

NAMES_LICENCE = "Unicode-3.0"

_SAMPLES_PER_SHARD = 4000
_SAME_STYLE_SHARE = 0.5
_FULL_CONCEPTS = 240

_T = TypeVar("_T")


class Track(Protocol):
    """Progress display over items, such as `rich.progress.track`."""

    def __call__(self, items: Iterable[_T], description: str, total: int) -> Iterable[_T]:
        """Return an iterable over the unchanged items."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildPlan:
    """Parameters of a build; the defaults give the data shipped in the repository."""

    languages: tuple[str, ...] = ("en", "eu")
    num_concepts: int = _FULL_CONCEPTS
    num_scenes: int = 450
    """Number of training scenes for 240 concepts; `scaled` adapts it to fewer."""
    num_texts: int = 420
    num_chats: int = 450
    with_text: bool = True
    """Write running text in the languages that have help pages."""
    seed: int = 0

    def scaled(self, full: int) -> int:
        """Scale a count of the full plan to the number of concepts."""
        return max(8, full * self.num_concepts // _FULL_CONCEPTS)


class Builder:
    """Builds parts of the data into a folder."""

    def __init__(
        self,
        packages: PackageFolder,
        plan: BuildPlan,
        *,
        track: Track,
        report: Callable[[str], None],
    ) -> None:
        self.plan = plan
        self.languages = load_languages(list(plan.languages))
        self.catalogue = load_catalogue(packages, self.languages, plan.num_concepts)
        self.asker = Asker(self.catalogue)
        self.packages = packages
        self._painter = Painter(packages)
        self._track = track
        self.text_languages = tuple(
            language for language in self.languages if plan.with_text and language.help_package
        )
        for line in self.catalogue.left_out:
            report(f"concept left out: {line}")
        for language in self.languages if plan.with_text else ():
            if language not in self.text_languages:
                report(f"no running text in '{language.code}': it has no help pages (help: null)")

    def build_images(self, folder: Path) -> None:
        """Write the training images with captions and instructions in every language."""
        singles, single_kinds = self._singles()
        scenes, scene_kinds = self._scenes()
        scene_shards = write_shards(folder, "train-scenes", scenes, per_shard=_SAMPLES_PER_SHARD)
        single_shards = write_shards(folder, "train-singles", singles, per_shard=_SAMPLES_PER_SHARD)
        shards = [*scene_shards, *single_shards]
        statistics = {
            "num_pictures": {"singles": len(singles), "scenes": len(scenes)},
            "styles": [style.value for style in TRAIN_STYLES],
        }
        questions = {"num_questions": dict(sorted((single_kinds + scene_kinds).items()))}
        self._write(folder, "emoji_caption", "caption", shards, statistics)
        self._write(folder, "emoji_instruct", "instruct", shards, statistics | questions)
        # The scenes alone are a second, small source over the same shards, for the quick profile.
        statistics = {**statistics, "num_pictures": {"scenes": len(scenes)}}
        self._write(folder, "scene_caption", "caption", scene_shards, statistics)
        self._write(folder, "scene_instruct", "instruct", scene_shards, statistics)

    def build_texts(self, folder: Path) -> None:
        """Write text-only conversations, knowledge questions, and running text if planned."""
        chats = self.chats(self.plan.scaled(self.plan.num_chats), "chat")
        self.write_chats(folder, "chat", chats)
        self._write_knowledge(folder)
        if self.text_languages:
            pages = running_text.read_pages(self.packages, self.text_languages)
            count = self.plan.scaled(self.plan.num_texts)
            self.write_texts(folder, "text", running_text.choose_paragraphs(pages, count))

    def build_benchmark(self, folder: Path, split: str, style: Style) -> None:
        """Write the benchmark of a split in one art style."""
        seen = {combo for scene in self._training_scenes() for combo in scene.combinations}
        planner = BenchmarkPlanner(self.asker, seen, split)
        images = planner.images(self.plan.seed)
        asked = planner.questions(images)
        by_image: dict[str, list[tuple[int, BenchmarkQuestion]]] = {}
        for number, question in enumerate(asked):
            by_image.setdefault(question.image, []).append((number, question))
        voters = tuple(Voter(self.catalogue, lexicon) for lexicon in self.catalogue.lexicons)
        samples = []
        for image in self._track(images, f"benchmark {split}", len(images)):
            if image.key not in by_image:
                continue
            rng = named_rng(self.plan.seed, "draw", image.key)
            icons = [
                None if concept is None else self._styled_icon(concept, style)
                for concept in image.scene.quadrants
            ]
            if image.is_scene:
                drawn = self._painter.scene(tuple(icons), rng)
            else:
                drawn = self._painter.single(self._styled_icon(image.shown[0], style), rng)
            items = [word_item(number, one, voters) for number, one in by_image[image.key]]
            samples.append(ShardSample(key=image.key, content={"items": items}, image=drawn))
        shards = write_shards(folder, f"benchmark-{split}", samples, per_shard=_SAMPLES_PER_SHARD)
        info = SourceInfo(
            name=f"benchmark_{split}",
            language=",".join(self.plan.languages),
            modality=Modality.BENCHMARK,
            record="items",
            licence=f"{style.licence} AND {NAMES_LICENCE}",
            provenance=self._provenance((style,)),
            statistics={"num_pictures": len(samples), "num_items": _count_items(samples)},
        )
        write_manifest(folder, info, shards)

    def knowledge_questions(self) -> tuple[KnowledgeQuestion, ...]:
        """Held-out text-only questions, on which language models are never trained."""
        planner = KnowledgePlanner(self.asker, self.plan.seed)
        return planner.questions(self.plan.scaled(NUM_PER_TYPE))

    def chats(
        self,
        count: int,
        name: str,
        avoided: frozenset[Combination] = frozenset(),
        make: Callable[[Asker, SceneMaker, Generator], Chat] = make_chat,
    ) -> list[Chat]:
        """Text-only conversations; no image of any split is involved."""
        maker = SceneMaker(self.asker, set(avoided))
        numbers = self._track(range(count), f"{name} conversations", count)
        return [
            make(self.asker, maker, named_rng(self.plan.seed, name, number)) for number in numbers
        ]

    def write_chats(self, folder: Path, name: str, chats: list[Chat]) -> None:
        """Text-only conversations as one source per language."""
        kinds: Counter[str] = Counter()
        samples = []
        for number, chat in enumerate(chats):
            records = chat_records(chat, self.catalogue.lexicons, self.plan.seed, number)
            kinds.update(question.kind.value for question in chat.questions)
            key = f"{name.replace('_', '-')}-{number:06d}"
            samples.append(_sample(key, {"chat": records}))
        shards = write_shards(folder, name.replace("_", "-"), samples, per_shard=_SAMPLES_PER_SHARD)
        statistics = {"num_questions": dict(sorted(kinds.items()))}
        self._write(folder, name, "chat", shards, statistics)

    def _write_knowledge(self, folder: Path) -> None:
        questions = self.knowledge_questions()
        samples, chances = [], defaultdict(list)
        for number, question in enumerate(questions):
            records = chat_records(question.chat, self.catalogue.lexicons, self.plan.seed, number)
            key = f"{question.type.value}-{number:06d}"
            samples.append(_sample(key, {"chat": records}))
            chances[question.type.value].append(question.chance)
        shards = write_shards(folder, "knowledge", samples, per_shard=_SAMPLES_PER_SHARD)
        statistics = {
            "num_questions": {kind: len(each) for kind, each in chances.items()},
            "chance": {kind: round(sum(each) / len(each), 6) for kind, each in chances.items()},
        }
        self._write(folder, "knowledge", "chat", shards, statistics)

    def write_texts(self, folder: Path, name: str, texts: Iterable[ParallelText]) -> None:
        """Write running text as one source per language that has help pages."""
        samples = []
        codes = [language.code for language in self.text_languages]
        for number, text in enumerate(texts):
            records = {
                code: {"messages": [{"role": "text", "content": content}]}
                for code, content in zip(codes, text.texts, strict=True)
            }
            key = f"{name.replace('_', '-')}-{number:06d}"
            samples.append(_sample(key, {"text": records}))
        shards = write_shards(folder, name.replace("_", "-"), samples, per_shard=_SAMPLES_PER_SHARD)
        self._write(folder, name, "text", shards, {})

    def _singles(self) -> tuple[list[ShardSample], Counter[str]]:
        jobs = [
            (number, style)
            for style in TRAIN_STYLES
            for number, concept in enumerate(self.catalogue.concepts)
            if style.value in concept.icons
        ]
        samples, kinds = [], Counter[str]()
        for number, style in self._track(jobs, "training images", len(jobs)):
            key = f"{style.value}-{self.catalogue.concepts[number].codepoints}"
            image = self._painter.single(
                self._styled_icon(number, style), named_rng(self.plan.seed, "draw", key)
            )
            questions = single_questions(self.asker, number, named_rng(self.plan.seed, "ask", key))
            kinds.update(question.kind.value for question in questions)
            samples.append(_sample(key, self._records((number,), questions), image))
        return samples, kinds

    def _scenes(self) -> tuple[list[ShardSample], Counter[str]]:
        scenes = self._training_scenes()
        samples, kinds = [], Counter[str]()
        for number, scene in enumerate(self._track(scenes, "training scenes", len(scenes))):
            key = f"scene-{number:04d}"
            image = self._paint_scene(scene, key)
            rng = named_rng(self.plan.seed, "ask", key)
            questions = scene_questions(self.asker, scene, rng)
            kinds.update(question.kind.value for question in questions)
            samples.append(_sample(key, self._records(scene.things, questions), image))
        return samples, kinds

    def _training_scenes(self) -> list[Scene]:
        maker = SceneMaker(self.asker, set())
        patterns = balanced_patterns(self.plan.scaled(self.plan.num_scenes))
        return [
            maker.make(pattern, named_rng(self.plan.seed, "scene", number))
            for number, pattern in enumerate(patterns)
        ]

    def _paint_scene(self, scene: Scene, key: str) -> bytes:
        """Draw a scene in mixed styles; copies of a concept share a style half of the time."""
        rng = named_rng(self.plan.seed, "draw", key)
        kept: dict[int, Style] = {}
        styled_icons: list[StyledIcon | None] = []
        for concept in scene.quadrants:
            if concept is None:
                styled_icons.append(None)
                continue
            icons = self.catalogue.concepts[concept].icons
            style = pick(tuple(style for style in TRAIN_STYLES if style.value in icons), rng)
            if rng.random() < _SAME_STYLE_SHARE:
                style = kept.setdefault(concept, style)
            styled_icons.append(self._styled_icon(concept, style))
        return self._painter.scene(tuple(styled_icons), rng)

    def _records(self, shown: tuple[int, ...], questions: tuple[Question, ...]) -> dict[str, Any]:
        lexicons = self.catalogue.lexicons
        return {
            "caption": {lex.language.code: word_caption(shown, lex) for lex in lexicons},
            "instruct": {
                lex.language.code: word_turns(IMAGE_MARK, questions, lex) for lex in lexicons
            },
        }

    def _styled_icon(self, concept: int, style: Style) -> StyledIcon:
        return StyledIcon(style=style, icon=self.catalogue.concepts[concept].icons[style.value])

    def _write(
        self,
        folder: Path,
        name: str,
        record: str,
        shards: Iterable[ShardEntry],
        statistics: dict[str, Any],
    ) -> None:
        """Write a manifest per language over the same shards."""
        is_images = record in ("caption", "instruct")
        licences = {style.licence for style in TRAIN_STYLES} if is_images else set()
        licences.add(running_text.LICENCE if record == "text" else NAMES_LICENCE)
        for language in self.text_languages if record == "text" else self.languages:
            info = SourceInfo(
                name=f"{name}_{language.code}",
                language=language.code,
                modality=Modality.IMAGE_TEXT if is_images else Modality.TEXT,
                record=f"{record}.{language.code}",
                licence=" AND ".join(sorted(licences)),
                provenance=self._text_provenance()
                if record == "text"
                else self._provenance(TRAIN_STYLES if is_images else ()),
                statistics=statistics,
            )
            write_manifest(folder, info, list(shards))

    def _provenance(self, styles: tuple[Style, ...]) -> dict[str, Any]:
        names = ("cldr-annotations-full", "cldr-annotations-derived-full")
        used = [read_lock()[name] for name in (*(style.package for style in styles), *names)]
        return {
            "packages": {
                lock.name: {"version": lock.version, "sha256": lock.sha256} for lock in used
            },
            "num_concepts": len(self.catalogue),
            "seed": self.plan.seed,
        }

    def _text_provenance(self) -> dict[str, Any]:
        return {"debian_packages": [language.help_package for language in self.text_languages]}


def _sample(key: str, records: dict[str, Any], image: bytes | None = None) -> ShardSample:
    return ShardSample(key=key, content={"parallel_id": key, **records}, image=image)


def _count_items(samples: list[ShardSample]) -> dict[str, int]:
    kinds = Counter(
        f"{item['benchmark']}/{item['question_type']}"
        for sample in samples
        for item in sample.content["items"]
    )
    return dict(sorted(kinds.items()))

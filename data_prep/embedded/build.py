"""Builder of the embedded data: captions, instructions, running text and the benchmark.

A plan determines every byte: all random choices come from named generators with the plan's seed.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from numpy.random import Generator

from core.chat.tokens import IMAGE_MARK
from core.rng import named_rng
from data_prep.embedded import running_text
from data_prep.embedded.concepts import load_catalogue
from data_prep.embedded.drawings import TRAIN_STYLES, Painter, Style, StyledIcon
from data_prep.embedded.packages import PackageFolder, read_lock
from data_prep.embedded.planning.benchmark import BenchmarkPlanner
from data_prep.embedded.planning.benchmark_items import BenchmarkQuestion, word_item
from data_prep.embedded.planning.conversations import (
    Chat,
    chat_records,
    make_chat,
    word_caption,
    word_turns,
)
from data_prep.embedded.planning.knowledge import NUM_PER_TYPE, KnowledgePlanner, KnowledgeQuestion
from data_prep.embedded.planning.questions import Asker, Question
from data_prep.embedded.planning.scenes import Combination, SceneMaker
from data_prep.embedded.planning.training_images import TrainingImage, TrainingPlanner
from data_prep.embedded.running_text import ParallelText
from data_prep.embedded.votes import Voter
from data_prep.embedded.wordings import NUM_CONCEPTS, load_languages
from data_prep.shards.writer import ShardSample, SourceInfo, write_manifest, write_shards
from datamodules.shards.manifest import Modality, ShardEntry

NAMES_LICENCE = "Unicode-3.0"

_SAMPLES_PER_SHARD = 4000

_T = TypeVar("_T")


class Track(Protocol):
    """Progress display over items, such as `rich.progress.track`."""

    def __call__(self, items: Iterable[_T], description: str, total: int) -> Iterable[_T]:
        """Return an iterable over the unchanged items."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BuildPlan:
    """Parameters of a build; the defaults give the data shipped in the repository."""

    languages: tuple[str, ...] = ("en", "eu")
    num_concepts: int = NUM_CONCEPTS
    num_rounds: int = 5
    """Rounds of training images; one of five is a share of 20 %."""
    scenes_per_round: int = 216
    """Number of training scenes of a round for 240 concepts; `scaled` adapts it to fewer."""
    num_texts: int = 420
    num_chats: int = 450
    with_text: bool = True
    """Write running text in the languages that have help pages."""
    seed: int = 0

    def scaled(self, full: int) -> int:
        """Scale a count of the full plan to the number of concepts."""
        return max(8, full * self.num_concepts // NUM_CONCEPTS)


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
        planner = self._training_planner()
        shards: list[ShardEntry] = []
        statistics: dict[str, Any] = {"styles": [style.value for style in TRAIN_STYLES]}
        rounds = planner.rounds(self.plan.num_rounds)
        for number, images in enumerate(rounds):
            samples = self._draw(images, f"training images, round {number + 1}")
            shards += write_shards(folder, f"train-{number}", samples, per_shard=_SAMPLES_PER_SHARD)
        everything = [image for images in rounds for image in images]
        counts = _count_images(everything)
        self._write(folder, "emoji_caption", "caption", shards, statistics | counts,
                    num_rounds=len(rounds))  # fmt: skip
        questions = {"num_questions": _count_questions(everything)}
        self._write(folder, "emoji_instruct", "instruct", shards, statistics | counts | questions,
                    num_rounds=len(rounds))  # fmt: skip
        # One round is a second, small source over the same shards, for the quick profile.
        counts = _count_images(rounds[0])
        self._write(folder, "round_caption", "caption", shards[:1], statistics | counts)
        self._write(folder, "round_instruct", "instruct", shards[:1], statistics | counts)
        withheld = planner.withheld_images(self.plan.num_rounds)
        samples = self._draw(withheld, "images of withheld names")
        shards = [*write_shards(folder, "withheld", samples, per_shard=_SAMPLES_PER_SHARD)]
        statistics |= _count_images(withheld) | {
            "withheld": [self.catalogue.concepts[c].codepoints for c in planner.withheld]
        }
        self._write(folder, "withheld_caption", "caption", shards, statistics)
        statistics["num_questions"] = _count_questions(withheld)
        self._write(folder, "withheld_instruct", "instruct", shards, statistics)

    def build_texts(self, folder: Path) -> None:
        """Write text-only conversations, knowledge questions, and running text if planned."""
        chats = self.chats(self.plan.scaled(self.plan.num_chats), "chat")
        self.write_chats(folder, "chat", chats)
        self._write_knowledge(folder)
        if self.text_languages:
            pages = running_text.read_pages(self.packages, self.text_languages)
            count = self.plan.scaled(self.plan.num_texts)
            self.write_texts(folder, "text", running_text.choose_paragraphs(pages, count))

    def build_benchmark(
        self, folder: Path, split: str, style: Style, *, is_withheld: bool = False
    ) -> None:
        """Write the benchmark of a split in one art style.

        Args:
            folder: Folder of the data.
            split: Name of the split.
            style: Art style of all its images.
            is_withheld: Whether it is about the withheld names, or about all others.
        """
        withheld = self._training_planner().withheld
        shown = tuple(c for c in range(len(self.catalogue)) if c not in set(withheld))
        concepts, others = (withheld, ()) if is_withheld else (shown, withheld)
        asker = Asker(self.catalogue, left_out=others)
        planner = BenchmarkPlanner(asker, self._training_combinations(), split, concepts)
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

    def _training_planner(self) -> TrainingPlanner:
        return TrainingPlanner(
            self.catalogue,
            seed=self.plan.seed,
            scenes_per_round=self.plan.scaled(self.plan.scenes_per_round),
        )

    def _training_combinations(self) -> set[Combination]:
        planner = self._training_planner()
        images = [image for one in planner.rounds(self.plan.num_rounds) for image in one]
        return planner.combinations([*images, *planner.withheld_images(self.plan.num_rounds)])

    def _draw(self, images: Sequence[TrainingImage], what: str) -> list[ShardSample]:
        """Draw planned images."""
        samples = []
        for image in self._track(images, what, len(images)):
            icons = tuple(
                None if concept is None or style is None else self._styled_icon(concept, style)
                for concept, style in zip(image.scene.quadrants, image.styles, strict=True)
            )
            rng = named_rng(self.plan.seed, "draw", image.key)
            drawn = self._painter.training_image(icons, rng, is_scene=image.is_scene)
            records = self._records(image.scene.things, image.questions)
            samples.append(_sample(image.key, records, drawn))
        return samples

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
        *,
        num_rounds: int = 1,
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
                num_rounds=num_rounds,
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


def _count_images(images: Sequence[TrainingImage]) -> dict[str, Any]:
    num_scenes = sum(image.is_scene for image in images)
    return {"num_pictures": {"singles": len(images) - num_scenes, "scenes": num_scenes}}


def _count_questions(images: Sequence[TrainingImage]) -> dict[str, int]:
    kinds = Counter(question.kind.value for image in images for question in image.questions)
    return dict(sorted(kinds.items()))

"""Embedded benchmark: an unseen art style, unseen scenes and answers balanced against guessing.

Yes/no questions come in pairs that ask about the same thing, in the same words, in an image that
shows it and in one that does not. Numbers, positions of the right choice and right names are
uniformly distributed.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from core.rng import named_rng
from data_prep.embedded.concepts import MIN_CONCEPTS, categories_overlap
from data_prep.embedded.planning.benchmark_items import BenchmarkQuestion
from data_prep.embedded.planning.questions import NUM_CHOICES, AnswerKind, Asker, Question
from data_prep.embedded.planning.scenes import Combination, Scene, SceneMaker, balanced_patterns
from data_prep.embedded.wordings import MAX_COUNT, QuestionKind


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Quotas:
    """Numbers of questions of each kind per language."""

    scenes: int
    category: int
    positions: int
    neighbours: int
    count_each: int
    """Questions per number and per counting question."""
    single_pairs: int
    category_pairs: int
    scene_pairs: int
    caption_single_pairs: int
    caption_scene_pairs: int


def quotas_for(num_concepts: int) -> Quotas:
    """Return the quotas, which are those of the full benchmark scaled from its 240 concepts."""

    def share(full: int) -> int:
        return max(1, full * num_concepts // 240)

    return Quotas(
        scenes=max(16, share(133)),
        category=share(120),
        positions=share(140),
        neighbours=share(60),
        count_each=share(25),
        single_pairs=share(60),
        category_pairs=share(20),
        scene_pairs=share(40),
        caption_single_pairs=share(80),
        caption_scene_pairs=share(40),
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkImage:
    """A benchmark image: a single concept or a scene."""

    key: str
    scene: Scene
    is_scene: bool

    @property
    def shown(self) -> tuple[int, ...]:
        """The concepts in the image."""
        return tuple(sorted(self.scene.counts))


class BenchmarkPlanner:
    """Plans the images and questions of a split, independently of the language."""

    def __init__(
        self,
        asker: Asker,
        training: set[Combination],
        split: str,
        concepts: Sequence[int] | None = None,
    ) -> None:
        """Create a planner.

        Args:
            asker: Draws the questions.
            training: Combinations of things that training shows.
            split: Name of the benchmark.
            concepts: Concepts that its images show; None for all.
        """
        self._asker = asker
        self._split = split
        size = len(asker.catalogue)
        self._concepts = tuple(range(size) if concepts is None else concepts)
        self._quotas = quotas_for(len(self._concepts))
        self._seed = 0
        self._forbidden = training

    def images(self, seed: int) -> list[BenchmarkImage]:
        """Return an image of every concept, and scenes with combinations unseen in training."""
        self._seed = seed
        catalogue = self._asker.catalogue
        images = [
            BenchmarkImage(
                key=f"{self._split}-single-{catalogue.concepts[number].codepoints}",
                scene=Scene(quadrants=(number, None, None, None)),
                is_scene=False,
            )
            for number in self._concepts
        ]
        if len(self._concepts) < MIN_CONCEPTS:
            return images
        others = [c for c in range(len(catalogue)) if c not in set(self._concepts)]
        maker = SceneMaker(self._asker, self._forbidden, left_out=others)
        for number, pattern in enumerate(balanced_patterns(self._quotas.scenes)):
            scene = maker.make(pattern, self._rng("scene", str(number)))
            key = f"{self._split}-scene-{number:04d}"
            images.append(BenchmarkImage(key=key, scene=scene, is_scene=True))
        return images

    def questions(self, images: list[BenchmarkImage]) -> list[BenchmarkQuestion]:
        """Return all questions about the images; with few concepts there are no scenes."""
        singles = [image for image in images if not image.is_scene]
        scenes = [image for image in images if image.is_scene]
        quotas = self._quotas
        asked = [
            *self._name_questions(singles),
            *self._category_questions(singles),
            *(self._position_questions(scenes) if scenes else ()),
            *(self._number_questions(scenes) if scenes else ()),
            *self._choice_questions(singles),
            *self._yes_no_pairs(singles, quotas.single_pairs, "vqa"),
            *self._category_pairs(singles),
        ]
        if scenes:
            asked += self._yes_no_pairs(scenes, quotas.scene_pairs, "vqa")
        asked += self._yes_no_pairs(singles, quotas.caption_single_pairs, "capqa")
        if scenes:
            asked += self._yes_no_pairs(
                scenes, quotas.caption_scene_pairs, "capqa", first=quotas.caption_single_pairs
            )
        return asked

    def _rng(self, *names: str) -> np.random.Generator:
        return named_rng(self._seed, "benchmark", self._split, *names)

    def _name_questions(self, singles: list[BenchmarkImage]) -> list[BenchmarkQuestion]:
        rng = self._rng("name")
        return [
            _make_question(
                p, self._asker.ask(QuestionKind.NAME, (AnswerKind.NAME, p.shown[0]), rng)
            )
            for p in singles
        ]

    def _category_questions(self, singles: list[BenchmarkImage]) -> list[BenchmarkQuestion]:
        """Take images from the categories in turn, so that the categories stay balanced."""
        rng = self._rng("category")
        waiting: dict[str, list[BenchmarkImage]] = defaultdict(list)
        for image in _shuffled(singles, rng):
            waiting[self._category(image)].append(image)
        chosen: list[BenchmarkImage] = []
        while len(chosen) < self._quotas.category and any(waiting.values()):
            chosen += [waiting[key].pop() for key in sorted(waiting) if waiting[key]]
        return [
            _make_question(p, self._asker.category(p.shown[0], rng))
            for p in chosen[: self._quotas.category]
        ]

    def _position_questions(self, scenes: list[BenchmarkImage]) -> list[BenchmarkQuestion]:
        """Ask where things are and what is next to them, at most twice each per scene."""
        rng = self._rng("position")
        places = [
            (image, QuestionKind.POSITION, place, (), there)
            for image in scenes
            for place, there in _shuffled(image.scene.places(), rng)[:2]
        ]
        neighbours = [
            (image, QuestionKind.NEIGHBOUR, relation, (named,), there)
            for image in scenes
            for relation, named, there in _shuffled(image.scene.neighbours(), rng)[:2]
        ]
        chosen = [
            *_shuffled(places, rng)[: self._quotas.positions],
            *_shuffled(neighbours, rng)[: self._quotas.neighbours],
        ]
        return [
            _make_question(
                image,
                self._asker.ask(kind, (AnswerKind.NAME, there), rng, concepts=named, place=place),
            )
            for image, kind, place, named, there in chosen
        ]

    def _number_questions(self, scenes: list[BenchmarkImage]) -> list[BenchmarkQuestion]:
        """Ask the same number of questions for every number, for both counting questions."""
        rng = self._rng("number")
        things: dict[int, list[tuple[BenchmarkImage, int | None]]] = defaultdict(list)
        times: dict[int, list[tuple[BenchmarkImage, int | None]]] = defaultdict(list)
        for image in _shuffled(scenes, rng):
            things[len(image.scene.things)].append((image, None))
            for concept, count in image.scene.counts.items():
                times[count].append((image, concept))
        asked = []
        for kind, by_count in (
            (QuestionKind.COUNT_THINGS, things),
            (QuestionKind.COUNT_NAME, times),
        ):
            each = min(
                [self._quotas.count_each, *(len(by_count[n]) for n in range(1, MAX_COUNT + 1))]
            )
            for count in range(1, MAX_COUNT + 1):
                # Complex scenes come first, so that "one" is also the answer among four things.
                options = sorted(by_count[count], key=lambda option: -len(option[0].shown))
                for image, concept in options[:each]:
                    concepts = () if concept is None else (concept,)
                    answer = (AnswerKind.NUMBER, count)
                    question = self._asker.ask(kind, answer, rng, concepts=concepts)
                    asked.append(_make_question(image, question))
        return asked

    def _choice_questions(self, singles: list[BenchmarkImage]) -> list[BenchmarkQuestion]:
        rng = self._rng("choice")
        asked = []
        for number, image in enumerate(_shuffled(singles, rng)):
            question = self._asker.choice(
                QuestionKind.CHOICE,
                image.shown,
                rng,
                right=image.shown[0],
                position=number % NUM_CHOICES,
            )
            asked.append(_make_question(image, question, benchmark="mc"))
        return asked

    def _yes_no_pairs(
        self, images: list[BenchmarkImage], num_pairs: int, benchmark: str, *, first: int = 0
    ) -> list[BenchmarkQuestion]:
        """Ask for the same name in two images, where the answers are yes and no.

        Half of the pairs share a category, so that near and far misses are equally common. The
        pairs are numbered from `first`, which determines their wordings.
        """
        rng = self._rng(benchmark, "pairs", str(images[0].is_scene))
        left = _shuffled(images, rng)
        asked: list[BenchmarkQuestion] = []
        used: set[int] = set()
        for number in range(num_pairs):
            found = self._find_pair(left, used, near=number % 2 == 0)
            if found is None:
                break
            yes, no, concept = found
            left = [image for image in left if image not in (yes, no)]
            used.add(concept)
            question = self._ask_if_shown(benchmark, first + number, concept, rng)
            for image, answer in ((yes, 1), (no, 0)):
                answered = dataclasses.replace(question, answer=answer)
                asked.append(_make_question(image, answered, benchmark=benchmark))
        return asked

    def _ask_if_shown(
        self, benchmark: str, number: int, concept: int, rng: np.random.Generator
    ) -> Question:
        """Word the question of a pair; caption checks use all sets of wordings in turn.

        These are the wordings of training, and each wording that only the benchmark has.
        """
        answer = (AnswerKind.YES_NO, 1)
        question = self._asker.ask(QuestionKind.IS_SHOWN, answer, rng, concepts=(concept,))
        num_unseen = self._asker.num_wordings(QuestionKind.CAPTION_CHECK_UNSEEN)
        unseen = number % (1 + num_unseen) - 1
        if benchmark != "capqa" or unseen < 0:
            return question
        return dataclasses.replace(question, kind=QuestionKind.CAPTION_CHECK_UNSEEN, wording=unseen)

    def _find_pair(
        self, left: list[BenchmarkImage], used: set[int], *, near: bool
    ) -> tuple[BenchmarkImage, BenchmarkImage, int] | None:
        """Find two images and a concept that only the first shows.

        Args:
            left: Images to choose from.
            used: Concepts of earlier pairs.
            near: Prefer a second image with the concept's category, otherwise one without.
        """
        confusable = self._asker.catalogue.confusable
        for wanted in (near, not near):
            for yes in left:
                for concept in yes.shown:
                    category = self._asker.categories[concept]
                    for no in left:
                        is_near = category in self._asker.categories[list(no.shown)]
                        fair = not confusable[concept, list(no.shown)].any()
                        if fair and is_near == wanted and concept not in used:
                            return yes, no, concept
        return None

    def _category_pairs(self, singles: list[BenchmarkImage]) -> list[BenchmarkQuestion]:
        rng = self._rng("category pairs")
        left = _shuffled(singles, rng)
        asked: list[BenchmarkQuestion] = []
        while left and len(asked) < 2 * self._quotas.category_pairs:
            yes = left.pop()
            own = self._category(yes)
            no = next((p for p in left if not categories_overlap(own, self._category(p))), None)
            if no is None:
                continue
            left.remove(no)
            for image, answer in ((yes, 1), (no, 0)):
                question = self._asker.ask(
                    QuestionKind.IS_CATEGORY, (AnswerKind.YES_NO, answer), rng, category=own
                )
                asked.append(_make_question(image, question))
        return asked

    def _category(self, image: BenchmarkImage) -> str:
        return self._asker.catalogue.concepts[image.shown[0]].category


def _make_question(
    image: BenchmarkImage, question: Question, *, benchmark: str = "vqa"
) -> BenchmarkQuestion:
    return BenchmarkQuestion(image=image.key, benchmark=benchmark, question=question)


def _shuffled(items: Iterable[Any], rng: np.random.Generator) -> list[Any]:
    listed = list(items)
    return [listed[int(i)] for i in rng.permutation(len(listed))]

"""Plan of the training images: what each shows, in which styles, and what is asked about it.

The images are planned in rounds. In every round each name is shown equally often, and whatever is
shown is asked for, so that a share of whole rounds exposes all names alike. Names that are withheld
have images of their own, which are never served in the target language.
"""

import dataclasses
from collections.abc import Iterable

from core.errors import DataError
from core.rng import named_rng
from data_prep.embedded.concepts import Catalogue
from data_prep.embedded.drawings import NUM_QUADRANTS, TRAIN_STYLES, Style
from data_prep.embedded.planning.image_questions import (
    scene_image_questions,
    single_image_questions,
)
from data_prep.embedded.planning.questions import Asker, Question, pick
from data_prep.embedded.planning.scenes import Combination, Scene, SceneMaker, balanced_patterns

WITHHELD_SHARE = 0.1
"""Share of the concepts whose names are withheld from target-language images."""

_PATTERN_WEIGHTS: dict[tuple[int, ...], int] = {
    (1,): 16,
    (1, 1): 18,
    (2,): 10,
    (1, 1, 1): 14,
    (2, 1): 10,
    (3,): 8,
    (1, 1, 1, 1): 17,
    (2, 1, 1): 12,
    (2, 2): 6,
    (3, 1): 11,
    (4,): 16,
}
"""Number of copies of each concept -> weight. Scenes have more different things than in the
benchmark, so that they can ask for several names. One thing alone in a scene is frequent enough
that models learn to count to one."""
_SINGLES_PER_ROUND = 2
"""Images of each concept alone in a round."""
_SAME_STYLE_SHARE = 0.5
_RESERVED_SHARE = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrainingImage:
    """One planned image."""

    key: str
    scene: Scene
    is_scene: bool
    styles: tuple[Style | None, ...]
    """Art style in each quadrant; a single concept is in the first one."""
    questions: tuple[Question, ...]


def choose_withheld(catalogue: Catalogue, seed: int) -> tuple[int, ...]:
    """Choose the concepts whose names are withheld, in proportion from every category.

    Names that are a part of another name, or share a family or a keyword with one, are not chosen:
    they would be answers in disguise.
    """
    rng = named_rng(seed, "withheld names")
    is_distinct = catalogue.confusable.sum(axis=1) == 1  # a concept is confusable with itself
    order = [c for c in rng.permutation(len(catalogue)).tolist() if is_distinct[c]]
    by_category: dict[str, list[int]] = {}
    for concept in order:
        by_category.setdefault(catalogue.concepts[concept].category, []).append(concept)
    ranked = sorted(
        ((place + 0.5) / len(members), category, concept)
        for category, members in by_category.items()
        for place, concept in enumerate(members)
    )
    number = max(1, round(WITHHELD_SHARE * len(catalogue)))
    if len(ranked) < number:
        raise DataError(
            f"{len(ranked)} of {len(catalogue)} concepts have a distinct name, but {number} names "
            "are withheld; raise --concepts"
        )
    return tuple(sorted(concept for _, _, concept in ranked[:number]))


class TrainingPlanner:
    """Plans the rounds of training images, and the images of the withheld names."""

    def __init__(self, catalogue: Catalogue, *, seed: int, scenes_per_round: int) -> None:
        self._catalogue, self._seed = catalogue, seed
        self._scenes_per_round = scenes_per_round
        self.withheld = choose_withheld(catalogue, seed)
        self._shown = [c for c in range(len(catalogue)) if c not in set(self.withheld)]
        self._main_asker = Asker(catalogue, left_out=self.withheld)
        self._full_asker = Asker(catalogue)
        self._reserved = self._reserve_copies()

    def rounds(self, count: int) -> list[list[TrainingImage]]:
        """Plan the rounds without withheld names."""
        return [self._round(number) for number in range(count)]

    def withheld_images(self, num_rounds: int) -> list[TrainingImage]:
        """Plan the images of withheld names; other names appear beside them in scenes."""
        if not num_rounds:
            return []
        images = [
            self._single(concept, number, self._full_asker)
            for number in range(_SINGLES_PER_ROUND * num_rounds)
            for concept in self.withheld
        ]
        maker = SceneMaker(self._full_asker, set(self._reserved))
        patterns = balanced_patterns(len(images) // _SINGLES_PER_ROUND, _PATTERN_WEIGHTS)
        for number, pattern in enumerate(patterns):
            key = f"withheld-scene-{number:04d}"
            rng = named_rng(self._seed, "scene", key)
            first = self.withheld[number % len(self.withheld)]
            images.append(self._scene(maker.make(pattern, rng, first=first), key, self._full_asker))
        return images

    def combinations(self, images: Iterable[TrainingImage]) -> set[Combination]:
        """Return the combinations of things that training scenes show."""
        return {
            combination
            for image in images
            if image.is_scene
            for combination in image.scene.combinations
        }

    def _reserve_copies(self) -> set[Combination]:
        """Reserve copies of half of the concepts, for every number of copies, for benchmarks."""
        reserved: set[Combination] = set()
        size = len(self._catalogue)
        for copies in range(1, NUM_QUADRANTS + 1):
            order = named_rng(self._seed, "reserved copies", copies).permutation(size)
            kept = order[: round(_RESERVED_SHARE * size)].tolist()
            reserved |= {(concept,) * copies for concept in kept}
        return reserved

    def _round(self, number: int) -> list[TrainingImage]:
        singles = [
            self._single(concept, view, self._main_asker)
            for view in range(_SINGLES_PER_ROUND * number, _SINGLES_PER_ROUND * (number + 1))
            for concept in self._shown
        ]
        maker = SceneMaker(self._main_asker, set(self._reserved), left_out=self.withheld)
        scenes = []
        patterns = balanced_patterns(self._scenes_per_round, _PATTERN_WEIGHTS)
        for at, pattern in enumerate(patterns):
            key = f"scene-{number}-{at:04d}"
            scene = maker.make(pattern, named_rng(self._seed, "scene", key))
            scenes.append(self._scene(scene, key, self._main_asker))
        return [*singles, *scenes]

    def _single(self, concept: int, view: int, asker: Asker) -> TrainingImage:
        """Plan a view of one concept; successive views have different styles as far as possible."""
        styles = self._styles_of(concept)
        codepoints = self._catalogue.concepts[concept].codepoints
        first = int(named_rng(self._seed, "first style", codepoints).integers(len(styles)))
        key = f"single-{view}-{codepoints}"
        rng = named_rng(self._seed, "ask", key)
        return TrainingImage(
            key=key,
            scene=Scene(quadrants=(concept, None, None, None)),
            is_scene=False,
            styles=(styles[(first + view) % len(styles)], None, None, None),
            questions=single_image_questions(asker, concept, rng),
        )

    def _scene(self, scene: Scene, key: str, asker: Asker) -> TrainingImage:
        """Plan a scene in mixed styles; copies of a concept share a style half of the time."""
        rng = named_rng(self._seed, "styles", key)
        kept: dict[int, Style] = {}
        styles: list[Style | None] = []
        for concept in scene.quadrants:
            if concept is None:
                styles.append(None)
                continue
            style = pick(self._styles_of(concept), rng)
            if rng.random() < _SAME_STYLE_SHARE:
                style = kept.setdefault(concept, style)
            styles.append(style)
        questions = scene_image_questions(asker, scene, named_rng(self._seed, "ask", key))
        return TrainingImage(
            key=key, scene=scene, is_scene=True, styles=tuple(styles), questions=questions
        )

    def _styles_of(self, concept: int) -> tuple[Style, ...]:
        icons = self._catalogue.concepts[concept].icons
        return tuple(style for style in TRAIN_STYLES if style.value in icons)

"""Second step, a single task: find duplicates and benchmark contamination over all parts."""

import json
from collections import Counter
from collections.abc import Iterator

from core.config import fingerprint
from core.io.files import atomic_write_text
from data_prep.prepare.items import texts_of
from data_prep.prepare.recipe import Kind
from data_prep.prepare.steps.collect import AMBIGUOUS_KEY, Collected, read_items
from data_prep.prepare.work import DUPLICATES, SourcePlan, WorkPlan

_MIN_QUESTION_CHARACTERS = 60
"""Shorter questions may be equal by coincidence."""
DUPLICATE = "duplicate"
CONTAMINATED_IMAGE = "its image is in a benchmark"
CONTAMINATED_TEXT = "its question is in a benchmark"


def settle(plan: WorkPlan) -> None:
    """Write the keys to leave out of each source with their reasons, a pure function of the items.

    Of items with the same image and texts, the first is kept. Training items are left out if
    their image is in a benchmark, or if they ask a long question of a benchmark. Items that share
    the key of a published translation are left out, because it translates at most one of them.
    """
    images: set[str] = set()
    questions: set[str] = set()
    for source in plan.benchmarks_first():
        is_benchmark = source.recipe.kind is Kind.BENCHMARK
        seen: set[bytes] = set()
        out: dict[str, str] = {}
        repeated = _repeated_keys(plan, source)
        for item in _read_all_items(plan, source):
            reason = _duplicate_reason(item, source, seen)
            if item.source_id in repeated:
                reason = AMBIGUOUS_KEY
            if is_benchmark:
                images.add(item.image)
                questions.update(_long_questions(item, source))
            elif item.image and item.image in images:
                reason = CONTAMINATED_IMAGE
            elif questions.intersection(_long_questions(item, source)):
                reason = CONTAMINATED_TEXT
            if reason:
                out[item.key] = reason
        path = plan.work / source.name / DUPLICATES
        atomic_write_text(path, json.dumps(out, ensure_ascii=False, indent=0))


def _read_all_items(plan: WorkPlan, source: SourcePlan) -> Iterator[Collected]:
    for part in range(len(source.parts)):
        yield from read_items(plan.folder(source, part))


def _repeated_keys(plan: WorkPlan, source: SourcePlan) -> set[str]:
    """Return the keys that several items of a source share, if a translation is joined by key."""
    if not source.is_joined or source.recipe.published[source.target].by_place:
        return set()
    counts = Counter(item.source_id for item in _read_all_items(plan, source))
    return {key for key, number in counts.items() if number > 1}


def _duplicate_reason(item: Collected, source: SourcePlan, seen: set[bytes]) -> str:
    digest = bytes.fromhex(fingerprint([item.image, item.records[source.language]])[:32])
    if digest in seen:
        return DUPLICATE
    seen.add(digest)
    return ""


def _long_questions(item: Collected, source: SourcePlan) -> list[str]:
    """Return the normalised question of an item if it is long enough to compare."""
    texts = texts_of(item.records[source.language])
    plain = (" ".join(text.replace("<image>", " ").split()).casefold() for text in texts[:1])
    return [text for text in plain if len(text) >= _MIN_QUESTION_CHARACTERS]

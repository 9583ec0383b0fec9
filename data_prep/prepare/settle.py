"""Second step, one task: what only shows over all parts: duplicates, and images of benchmarks."""

import json
from collections.abc import Iterator

from core.config import fingerprint
from core.io.files import atomic_write_text
from data_prep.prepare.collect import Collected, read_items
from data_prep.prepare.items import texts_of
from data_prep.prepare.recipe import Kind
from data_prep.prepare.work import DUPLICATES, SourcePlan, WorkPlan

_TELLING = 60
"""Characters from which on a question is no coincidence."""
DUPLICATE = "duplicate"
CONTAMINATED_IMAGE = "its image is in a benchmark"
CONTAMINATED_TEXT = "its question is in a benchmark"


def settle(plan: WorkPlan) -> None:
    """Write, per source, the keys that are left out and why; a pure function of what was collected.

    The first of equal items stays (the same image and the same texts). Training items whose
    image is a benchmark's, or that ask a benchmark's long question, are left out.
    """
    images: set[str] = set()
    questions: set[str] = set()
    for source in plan.benchmarks_first():
        is_benchmark = source.recipe.kind is Kind.BENCHMARK
        seen: set[bytes] = set()
        out: dict[str, str] = {}
        for item in _items(plan, source):
            reason = _reason(item, source, seen)
            if is_benchmark:
                images.add(item.image)
                questions.update(_asked(item, source))
            elif item.image and item.image in images:
                reason = CONTAMINATED_IMAGE
            elif questions.intersection(_asked(item, source)):
                reason = CONTAMINATED_TEXT
            if reason:
                out[item.key] = reason
        path = plan.work / source.name / DUPLICATES
        atomic_write_text(path, json.dumps(out, ensure_ascii=False, indent=0))


def _items(plan: WorkPlan, source: SourcePlan) -> Iterator[Collected]:
    for part in range(len(source.parts)):
        yield from read_items(plan.folder(source, part))


def _reason(item: Collected, source: SourcePlan, seen: set[bytes]) -> str:
    digest = bytes.fromhex(fingerprint([item.image, item.records[source.language]])[:32])
    if digest in seen:
        return DUPLICATE
    seen.add(digest)
    return ""


def _asked(item: Collected, source: SourcePlan) -> list[str]:
    """What an item says, if it is long enough to be told from others."""
    texts = texts_of(item.records[source.language])
    plain = (" ".join(text.replace("<image>", " ").split()).casefold() for text in texts[:1])
    return [text for text in plain if len(text) >= _TELLING]

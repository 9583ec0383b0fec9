"""Third step, one task per part: translate the items, check them and write shards."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from core.errors import DataError
from core.io.files import atomic_write_text, sha256_bytes
from core.io.reading import read_json_file, reading
from data_prep.prepare.faults import DroppedError, Ledger
from data_prep.prepare.items import Record, texts_of, with_texts
from data_prep.prepare.recipe import Kind
from data_prep.prepare.steps.collect import Collected, read_items
from data_prep.prepare.translation.memory import Memory
from data_prep.prepare.translation.prompts import load_prompt
from data_prep.prepare.translation.quality import CUT_OFF, check, measure
from data_prep.prepare.translation.translators import Request, identity_of, make_translator
from data_prep.prepare.work import DUPLICATES, IMAGES, PRODUCED, SourcePlan, WorkPlan
from data_prep.shards.writer import ShardSample, write_shard
from datamodules.shards.manifest import ShardEntry
from evaluation.benchmarks.gate import ItemGate

RECORDS = "records"
QUESTION_ITEMS = "items"
_TRANSLATIONS = "translations.jsonl"
_HASH_LENGTH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Produced:
    """Result of a finished task."""

    ledger: Ledger
    shards: list[ShardEntry]
    chosen: list[dict[str, str]]
    """Translated texts for annotators to check."""

    def dump(self) -> str:
        """Return the result as JSON."""
        shards = [
            {n: v for n, v in dataclasses.asdict(s).items() if v is not None} for s in self.shards
        ]
        content = {"ledger": self.ledger.dump(), "shards": shards, "chosen": self.chosen}
        return json.dumps(content, ensure_ascii=False, indent=1)

    @staticmethod
    def load(path: Path) -> "Produced":
        """Load the result that `dump` wrote."""
        with reading(path, fix=f"remove {path.parent} and run the command again"):
            raw = json.loads(path.read_text(encoding="utf-8"))
            shards = [ShardEntry(**entry) for entry in raw["shards"]]
            ledger = Ledger.load(raw["ledger"])
            return Produced(ledger=ledger, shards=shards, chosen=raw["chosen"])


def produce(
    plan: WorkPlan, source: SourcePlan, number: int, on_progress: Callable[[dict[str, float]], None]
) -> Ledger:
    """Write the shards of a part; a repeated call translates only what is missing."""
    folder = plan.folder(source, number)
    if (folder / PRODUCED).is_file():
        return Produced.load(folder / PRODUCED).ledger
    ledger = Ledger()
    samples = _SampleProducer(plan, source, number, ledger, on_progress)
    shards, buffer = list[ShardEntry](), list[ShardSample]()
    for sample in samples:
        buffer.append(sample)
        if len(buffer) == plan.config.per_shard:
            shards.append(_write_part_shard(plan, source, number, len(shards), buffer))
            buffer = []
    if buffer:
        shards.append(_write_part_shard(plan, source, number, len(shards), buffer))
    ledger.check(f"{source.name}, part {number}, produce")
    done = Produced(ledger=ledger, shards=shards, chosen=samples.chosen)
    atomic_write_text(folder / PRODUCED, done.dump())
    shutil.rmtree(folder / IMAGES, ignore_errors=True)  # the shards hold them now
    return ledger


def _write_part_shard(
    plan: WorkPlan, source: SourcePlan, part: int, shard: int, samples: Sequence[ShardSample]
) -> ShardEntry:
    return write_shard(plan.out, f"{source.name}-{part:05d}-{shard:03d}.tar", samples)


class _SampleProducer:
    """Iterable over the samples of a part in order; counts the items that are left out."""

    def __init__(
        self,
        plan: WorkPlan,
        source: SourcePlan,
        number: int,
        ledger: Ledger,
        on_progress: Callable[[dict[str, float]], None],
    ) -> None:
        self._plan, self._source, self._ledger = plan, source, ledger
        self._folder = plan.folder(source, number)
        self._number = number
        self._on_progress = on_progress
        self.chosen: list[dict[str, str]] = []
        self._memory = self._make_memory() if source.is_translated else None
        self._gate = (
            ItemGate(source.recipe.benchmark_recipe.benchmark, source.languages)
            if self._is_benchmark
            else None
        )
        left_out = plan.work / source.name / DUPLICATES
        fix = f"remove {left_out.parent} and run the command again"
        self._left_out: dict[str, str] = read_json_file(left_out, fix=fix)

    def __iter__(self) -> Iterator[ShardSample]:
        items = self._accepted_items()
        samples = self._group_by_image(items) if self._is_benchmark else map(self._to_sample, items)
        yield from samples
        if self._memory is not None:
            # The ledger holds only counts that do not depend on how often the task was restarted.
            self._ledger.add("texts", self._num_texts)

    @property
    def _is_benchmark(self) -> bool:
        return self._source.recipe.kind is Kind.BENCHMARK

    def _make_memory(self) -> Memory:
        config, prompt = self._plan.config.translate, load_prompt(self._plan.language)
        return Memory(
            self._folder / _TRANSLATIONS,
            lambda: make_translator(config, prompt),
            identity_of(config, prompt),
            prompt.words,
        )

    def _accepted_items(self) -> Iterator[tuple[Collected, dict[str, Any]]]:
        """Yield the items that pass the filters, with the figures of their translations."""
        self._num_texts = 0
        block: list[Collected] = []
        for item in read_items(self._folder):
            self._ledger.num_in += 1
            if reason := self._left_out.get(item.key):
                self._ledger.drop(item.key, DroppedError(reason))
                continue
            block.append(item)
            if len(block) == self._plan.config.translate.block:
                yield from self._process_block(block)
                block = []
        yield from self._process_block(block)

    def _process_block(self, block: list[Collected]) -> Iterator[tuple[Collected, dict[str, Any]]]:
        if self._memory is not None:
            self._translate(block, self._memory)
        for item in block:
            try:
                figures = self._check_translation(item)
                if self._gate is not None:
                    _check_question(self._gate, self._source, item)
            except DroppedError as error:
                self._ledger.drop(item.key, error)
                continue
            self._ledger.num_out += 1
            yield item, figures
        self._report_progress()

    def _translate(self, block: Sequence[Collected], memory: Memory) -> None:
        """Translate the items turn by turn, so that a turn sees the translated earlier turns."""
        texts = [texts_of(item.records[self._source.language]) for item in block]
        done: list[list[str]] = [[] for _ in block]
        is_chat = self._source.recipe.kind in (Kind.CHAT, Kind.QA)
        rounds = max((len(own) for own in texts), default=0) if is_chat else 1
        for at in range(rounds):
            asked: list[tuple[int, Request]] = []
            for which, own in enumerate(texts):
                now = own[at : at + 1] if is_chat else own
                if CUT_OFF in done[which]:
                    # The item will be dropped, so the rest of it is not translated.
                    done[which] += [CUT_OFF] * len(now)
                    continue
                context = tuple(zip(own[:at], done[which], strict=True)) if is_chat else ()
                asked += [(which, Request(text, context)) for text in now]
            found = memory.translate([request for _, request in asked], self._report_progress)
            for (which, _), text in zip(asked, found, strict=True):
                done[which].append(text)
        for item, own, translated in zip(block, texts, done, strict=True):
            self._num_texts += len(own)
            record = item.records[self._source.language]
            item.records[self._source.target] = with_texts(record, translated)

    def _check_translation(self, item: Collected) -> dict[str, Any]:
        """Measure every translated text of an item.

        Raises:
            DroppedError: If a filter rejects one of them.
        """
        target = self._source.target
        if not target:
            return {}
        languages = (self._source.language, target)
        config = self._plan.config.quality
        pairs = self._pair_texts(item.records[self._source.language], item.records[target])
        figures = []
        for source, translation in pairs:
            found = measure(source, translation, languages)
            check(source, translation, found, config, target)
            figures.append(found)
        for at, pair in enumerate(pairs):
            self._sample_for_annotators(item, at, pair)
        return {"by": self._translated_by(), "texts": figures}

    def _pair_texts(self, first: Record, second: Record) -> list[tuple[str, str]]:
        sources, translations = texts_of(first), texts_of(second)
        if len(sources) != len(translations) and self._is_benchmark:
            # Published translations may list other answers, but their questions correspond.
            return [(first["question"], second["question"])]
        if len(sources) != len(translations):
            detail = f"{len(sources)} and {len(translations)} texts"
            raise DroppedError("translation: different number of turns", detail)
        return list(zip(sources, translations, strict=True))

    def _translated_by(self) -> str:
        if self._memory is None:
            return self._source.recipe.published[self._source.target].place or "same rows"
        config = self._plan.config.translate
        return config.endpoint.model if config.endpoint else Path(config.model).name

    def _sample_for_annotators(self, item: Collected, at: int, pair: tuple[str, str]) -> None:
        """Sample a few texts per part by a hash, so that a restart chooses the same ones."""
        name = f"{item.key}-{at}"
        image_key = item.key if item.image and not self._is_benchmark else ""
        self.chosen.append(
            {
                "id": name,
                "language": self._source.target,
                "source": pair[0],
                "translation": pair[1],
                "image_key": image_key,
            }
        )
        self.chosen.sort(key=lambda one: sha256_bytes(one["id"].encode()))
        del self.chosen[-(-self._plan.config.validate // len(self._source.parts)) :]

    def _to_sample(self, accepted: tuple[Collected, dict[str, Any]]) -> ShardSample:
        item, figures = accepted
        content: dict[str, Any] = {RECORDS: item.records, "parallel_id": item.key}
        if item.source_id:
            content["source_id"] = item.source_id
        if figures:
            content["translation"] = figures
        image = self._read_image(item.image) if item.image else None
        return ShardSample(key=item.key, content=content, image=image)

    def _group_by_image(
        self, items: Iterator[tuple[Collected, dict[str, Any]]]
    ) -> Iterator[ShardSample]:
        """Yield one sample per image, with all its questions."""
        samples: dict[str, ShardSample] = {}
        for item, figures in items:
            name = f"{item.image[:_HASH_LENGTH]}-{self._number:05d}"
            if name not in samples:
                image = self._read_image(item.image)
                samples[name] = ShardSample(key=name, content={QUESTION_ITEMS: []}, image=image)
            samples[name].content[QUESTION_ITEMS].append(
                _to_benchmark_item(self._source, item, figures)
            )
        yield from samples.values()

    def _read_image(self, digest: str) -> bytes:
        path = self._folder / IMAGES / digest
        content = path.read_bytes()
        if sha256_bytes(content) != digest:
            raise DataError(f"{path} is damaged; remove {self._folder} and run again", "damaged")
        return content

    def _report_progress(self) -> None:
        costs = self._memory.costs() if self._memory else {}
        translated = self._memory.num_translated if self._memory else 0
        self._on_progress({"items": self._ledger.num_in, "translated": translated, **costs})


def _check_question(gate: ItemGate, source: SourcePlan, item: Collected) -> None:
    """Check that a question can be asked and scored in every language.

    Translation may make two choices equal, and a published translation may list other choices.

    Raises:
        DroppedError: If the question can't be asked or scored.
    """
    correct = {code: r["correct_choice"] for code, r in item.records.items() if "choices" in r}
    if len(set(correct.values())) > 1:
        raise DroppedError("choices differ", f"the correct choices are {correct}")
    try:
        gate.check(_to_benchmark_item(source, item, {}), source.name)
    except DataError as error:
        raise DroppedError(error.fault, str(error)) from error


def _to_benchmark_item(
    source: SourcePlan, item: Collected, figures: dict[str, Any]
) -> dict[str, Any]:
    """Merge the records of a question in all languages to an item of a benchmark."""
    recipe = source.recipe.benchmark_recipe
    first = item.records[source.language]
    merged = {
        "question_id": item.key,
        "benchmark": recipe.benchmark,
        "answer_type": first["answer_type"],
        "question_type": first["question_type"],
    }
    for name in ("question", "answers", "choices"):
        if name in first:
            merged[name] = {language: record[name] for language, record in item.records.items()}
    if "correct_choice" in first:
        merged["correct_choice"] = first["correct_choice"]
    if item.source_id:
        merged["source_id"] = item.source_id
    if figures:
        merged["translation"] = figures
    return merged

"""A small bilingual benchmark and a model that knows its answers."""

from datamodules.shards.manifest import Modality
from evaluation.answerers.base import ModelReply
from evaluation.answers.yes_no import YesNoParser
from evaluation.benchmarks.prompting import load_prompts
from evaluation.metrics.scorer import Scorer
from tests.support.doubles import write_shard, write_source

NAMES = [("dog", "txakur"), ("cat", "katu"), ("house", "etxe"), ("tree", "zuhaitz")]
LANGUAGES = ("en", "eu")


def both(english, basque):
    return {"en": english, "eu": basque}


def raw_items(at: int) -> list[dict]:
    """Return one question of every kind about image `at`."""
    (name_en, name_eu), number = NAMES[at % 4], str(1 + at % 3)
    truth = both("yes", "bai") if at % 2 else both("no", "ez")
    kinds = [("vqa", "other", "name"), ("vqa", "number", "how many"), ("vqa", "yes/no", "is")]
    kinds += [("mc", "choice", "choice"), ("capqa", "yes/no", "is it")]
    answers = [
        both([name_en] * 9 + ["pet"], [name_eu] * 9 + ["animalia"]),
        both([number] * 10, [number] * 10),
        {language: [word] * 10 for language, word in truth.items()},
        None,
        {language: [word] for language, word in truth.items()},
    ]
    items = []
    for place, ((benchmark, answer_type, kind), humans) in enumerate(
        zip(kinds, answers, strict=True)
    ):
        item = {
            "question_id": f"q{at}-{place}",
            "benchmark": benchmark,
            "answer_type": answer_type,
            "question_type": kind,
            "question": both(f"{kind}?", f"{kind} eu?"),
        }
        if humans is None:
            item["choices"] = both(*(list(names) for names in zip(*NAMES, strict=True)))
            item["correct_choice"] = at % 4
        else:
            item["answers"] = humans
        items.append(item)
    return items


def write_benchmark(
    folder, samples, *, name="benchmark_test", language="en,eu", modality=Modality.BENCHMARK
):
    entry = write_shard(folder / f"{name}-000000.tar", samples)
    return write_source(folder, name, [entry], language=language, modality=modality)


def small_benchmark(folder):
    """Write twelve images with five questions each in two languages; return the manifest."""
    samples = [(f"p{at:02d}", {"items": raw_items(at)}, b"image %d" % at) for at in range(12)]
    return write_benchmark(folder, samples)


def scorer(**kwargs):
    book = load_prompts(LANGUAGES)
    return Scorer(YesNoParser(book.yes_no_words), choice_words=book.choice_words, **kwargs)


class Oracle:
    """Answers correctly if it sees the right image, and "yes" otherwise."""

    def __init__(self, items, *, wrong=()):
        book = load_prompts(LANGUAGES)
        self.known = {}
        self.asked = 0
        for item in items:
            answer = "?" if item.question_type in wrong else item.answers[0]
            self.known[book.question(item)] = answer

    def answer(self, questions):
        self.asked += len(questions)
        texts = [self.known.get(question, "yes") for question in questions]
        return [ModelReply(text=text, num_tokens=len(text), is_truncated=False) for text in texts]

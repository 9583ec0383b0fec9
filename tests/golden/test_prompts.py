"""The exact text that Llama-3.1 reads for a question of each benchmark, in the style `instructed`.

The expected texts are written by hand, after lmms-eval (commit 75571cf) for English: vqav2, ok_vqa
without its request for "Unanswerable", ai2d for multiple choice, pope for yes/no questions, and
wild_vision_bench. One image takes two placeholders here.
"""

from pathlib import Path

import pytest

from core.chat.format import ChatFormat
from core.chat.templates import LLAMA3
from evaluation.benchmarks.items import Benchmark, BenchmarkItem
from evaluation.benchmarks.prompting import INSTRUCTED_STYLE, load_prompts
from tests.support.doubles import make_tokenizer

FOLDER = Path(__file__).parent / "prompts"
QUESTIONS = {
    Benchmark.VQA: {"en": "What color is the bus?", "eu": "Zer koloretakoa da autobusa?"},
    Benchmark.MULTIPLE_CHOICE: {
        "en": "What is the man waiting for?",
        "eu": "Zeren zain dago gizona?",
    },
    Benchmark.DIRECT: {"en": "What is the man waiting for?", "eu": "Zeren zain dago gizona?"},
    Benchmark.CAPTION_QA: {"en": "Is the bus parked?", "eu": "Aparkatuta dago autobusa?"},
    Benchmark.WILD: {
        "en": "Describe this {photo} for a travel blog.",
        "eu": "Deskribatu {argazki} hau bidaia-blog baterako.",
    },
}
CHOICES = {"en": ("the bus", "a taxi"), "eu": ("autobusa", "taxi bat")}
MARKERS = (
    LLAMA3.bos,
    "<|start_header_id|>",
    "<|end_header_id|>",
    LLAMA3.user_suffix,
    LLAMA3.pad_token,
    LLAMA3.image_token,
)


def item(kind: Benchmark, language: str) -> BenchmarkItem:
    is_choice = kind is Benchmark.MULTIPLE_CHOICE
    return BenchmarkItem(
        dataset="golden",
        question_id="q",
        benchmark=kind,
        answer_type="other",
        question_type="other",
        language=language,
        image_key="image",
        image=b"",
        question=QUESTIONS[kind][language],
        answers=(),
        choices=CHOICES[language] if is_choice else (),
        correct_choice=0 if is_choice else None,
    )


@pytest.mark.parametrize("language", ["en", "eu"])
@pytest.mark.parametrize("kind", list(QUESTIONS), ids=lambda kind: str(kind))
def test_the_prompt_is_the_stored_text(kind: Benchmark, language: str) -> None:
    chat = ChatFormat(make_tokenizer(MARKERS), LLAMA3, num_image_tokens=2)
    question = load_prompts([language], style=INSTRUCTED_STYLE).question(item(kind, language))
    text = chat.tokenizer.decode(chat.encode_prompt(question.turns))
    stored = (FOLDER / f"{kind}.{language}.txt").read_text(encoding="utf-8")
    assert text == stored.removesuffix("\n") + "\n\n"

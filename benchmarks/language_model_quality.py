"""Measure the embedded language models on short questions about textual image descriptions.

The questions are the shipped text-only set (`chat_en`, `chat_eu`), each asked alone after its
description and scored by exact match of the greedy answer. The backbones were trained on other
conversations of the same generator, so this measures the format and the names, not general
knowledge.

    python -m benchmarks.language_model_quality
"""

import argparse
from pathlib import Path

from core.chat.format import ChatFormat, load_tokenizer
from core.chat.templates import EMBEDDED
from core.samples import Role, Turn
from datamodules.shards.source import Source
from models.connector import ConnectorConfig, build_connector
from models.language.language_model import LanguageModelConfig, load_language_model
from models.vlm import VisionLanguageModel

MODELS = ("lm_general", "lm_adapted")
LANGUAGES = ("en", "eu")


def load(folder: Path) -> tuple[VisionLanguageModel, ChatFormat]:
    """Load a language model behind an unused connector."""
    chat = ChatFormat(load_tokenizer(folder), EMBEDDED, num_image_tokens=1)
    language_model = load_language_model(LanguageModelConfig(path=str(folder))).eval()
    width = language_model.config.hidden_size
    connector = build_connector(ConnectorConfig(), vision_width=1, model_width=width, seed=0)
    model = VisionLanguageModel(None, connector, language_model, image_token_id=chat.image_token_id)
    return model, chat


def accuracy(model: VisionLanguageModel, chat: ChatFormat, source: Source) -> tuple[float, int]:
    """Return the share of exact answers and the number of questions."""
    prompts, answers = [], []
    for index in range(len(source)):
        turns = source.read(index).turns
        description = turns[0].content.split("\n")[0]
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            text = f"{description}\n{question.content.split(chr(10))[-1]}"
            prompts.append(chat.encode_prompt([Turn(role=Role.USER, content=text)]))
            answers.append(answer.content)
    replies = model.generate(
        prompts,
        [None] * len(prompts),
        max_new_tokens=12,
        end_token_id=chat.end_token_id,
        pad_token_id=chat.pad_token_id,
        batch_size=128,
    )
    right = sum(chat.decode(r) == a for r, a in zip(replies, answers, strict=True))
    return right / len(answers), len(answers)


def main() -> None:
    """Print one line per model and language."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data/embedded"))
    folder = parser.parse_args().data
    for name in MODELS:
        model, chat = load(folder / "models" / name)
        for language in LANGUAGES:
            source = Source(folder / f"chat_{language}.manifest.json")
            share, number = accuracy(model, chat, source)
            print(f"{name}  {language}  {100 * share:.1f} %  n={number}")


if __name__ == "__main__":
    main()

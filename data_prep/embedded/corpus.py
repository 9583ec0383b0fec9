"""Large text corpus for training the small backbones, built on demand and not shipped.

It contains only names of the concepts and text of the help pages, and no image of any split.
"""

from pathlib import Path

from data_prep.embedded import running_text
from data_prep.embedded.build import Builder

NUM_CHATS = 12_000


def build_corpus(builder: Builder, folder: Path) -> None:
    """Write the sources corpus_text_{language} and corpus_chat_{language}."""
    folder.mkdir(parents=True, exist_ok=True)
    if builder.text_languages:
        pages = running_text.read_pages(builder.packages, builder.text_languages)
        builder.write_texts(folder, "corpus_text", running_text.documents(pages))
    count = builder.plan.scaled(NUM_CHATS)
    builder.write_chats(folder, "corpus_chat", builder.chats(count, "corpus_chat"))

"""The large text corpus on which the small backbones are trained; built on demand, never shipped.

Only words are used, of the concepts and of the help pages: no image of any split is involved.
"""

from pathlib import Path

from data_prep.embedded import running_text
from data_prep.embedded.build import Builder

NUM_CHATS = 12_000


def build_corpus(builder: Builder, folder: Path) -> None:
    """Sources corpus_text_{language} and corpus_chat_{language}."""
    folder.mkdir(parents=True, exist_ok=True)
    if builder.text_languages:
        pages = running_text.read_pages(builder.packages, builder.text_languages)
        builder.write_texts(folder, "corpus_text", running_text.documents(pages))
    count = builder.plan.scaled(NUM_CHATS)
    builder.write_chats(folder, "corpus_chat", builder.chats(count, "corpus_chat"))

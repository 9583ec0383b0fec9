"""Large text corpus for training the small backbones, built on demand and not shipped.

It contains only names of the concepts and text of the help pages: no image of any split, and no
knowledge question.
"""

from pathlib import Path

from data_prep.embedded import running_text
from data_prep.embedded.build import Builder
from data_prep.embedded.knowledge import held_out
from data_prep.embedded.script_texts import write_script_texts

NUM_CHATS = 24_000


def build_corpus(builder: Builder, folder: Path) -> None:
    """Write the sources corpus_text_{language} and corpus_chat_{language}, and texts in scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    if builder.text_languages:
        pages = running_text.read_pages(builder.packages, builder.text_languages)
        builder.write_texts(folder, "corpus_text", running_text.documents(pages))
    count = builder.plan.scaled(NUM_CHATS)
    avoided = held_out(builder.knowledge_questions())
    chats = builder.chats(count, "corpus_chat", avoided.combinations)
    kept = [chat for one in chats if (chat := avoided.without(one))]
    builder.write_chats(folder, "corpus_chat", kept)
    write_script_texts(builder.packages, folder)

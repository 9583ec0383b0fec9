"""Large text corpus for training the small backbones, built on demand and not shipped.

It contains only names of the concepts and text of the help pages: no image of any split, and no
knowledge question.
"""

from pathlib import Path

from data_prep.embedded import running_text
from data_prep.embedded.build import Builder
from data_prep.embedded.planning.conversations import Chat, make_listing, make_yes_no
from data_prep.embedded.planning.knowledge import HeldOut, held_out
from data_prep.embedded.script_texts import write_script_texts
from data_prep.shards.folder_metadata import write_metadata

NUM_CHATS = 24_000
NUM_LISTINGS = 12_000
NUM_YES_NO = 12_000


def build_corpus(builder: Builder, folder: Path) -> None:
    """Write the sources corpus_{text,chat,listing,yes_no}_{language}, and texts in scripts."""
    folder.mkdir(parents=True, exist_ok=True)
    if builder.text_languages:
        pages = running_text.read_pages(builder.packages, builder.text_languages)
        builder.write_texts(folder, "corpus_text", running_text.documents(pages))
    count = builder.plan.scaled(NUM_CHATS)
    avoided = held_out(builder.knowledge_questions())
    chats = builder.chats(count, "corpus_chat", avoided.combinations)
    builder.write_chats(folder, "corpus_chat", _without(chats, avoided))
    for name, full, make in (
        ("corpus_listing", NUM_LISTINGS, make_listing),
        ("corpus_yes_no", NUM_YES_NO, make_yes_no),
    ):
        chats = builder.chats(builder.plan.scaled(full), name, avoided.combinations, make)
        builder.write_chats(folder, name, _without(chats, avoided))
    write_script_texts(builder.packages, folder)
    write_metadata(folder, "corpus")


def _without(chats: list[Chat], avoided: HeldOut) -> list[Chat]:
    return [kept for chat in chats if (kept := avoided.without(chat))]

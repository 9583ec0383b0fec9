"""Metadata of a folder of sources for readers of data sets: its data card and `croissant.json`."""

import logging
from pathlib import Path

from data_prep.shards.croissant import published_manifests, stated_name, write_croissant
from data_prep.shards.data_card import CARD_NAME, is_foreign_card, write_card

_LOG = logging.getLogger(__name__)


def write_metadata(folder: Path, name: str) -> None:
    """Describe all sources of a folder beside their manifests; a card of the user stays.

    Nothing is written if its `.gitignore` names all of them.

    Args:
        folder: Folder of the manifests.
        name: Name of the data set, unless an earlier command gave the folder another.

    Raises:
        DataError: If a manifest or a shard is damaged.
    """
    if not published_manifests(folder):
        return
    name = stated_name(folder) or name
    if is_foreign_card(folder):
        _LOG.warning(
            "%s stays as it is; rename it and run `python -m data_prep.card %s` for another",
            folder / CARD_NAME,
            folder,
        )
    else:
        write_card(folder, name)
    write_croissant(folder, name)  # last: its presence shows that a folder is complete

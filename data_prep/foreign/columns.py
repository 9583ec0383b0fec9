"""Columns of conversation files, found by the names that are usual for them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from core.errors import ConfigError, unknown_name
from data_prep.foreign.roles import COLUMN_NAMES
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.recipe import Kind, SourceRecipe

_IMAGE = "image"
_SHOWN = 200
_CALLED_FOR_RECORDS: dict[Kind, tuple[str, ...]] = {
    Kind.CHAT: ("conversation",),
    Kind.QA: ("question", "answer"),
    Kind.CAPTION: ("caption",),
}
"""Kind of record -> roles that it needs; the first kind whose roles all have a column is taken."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Kind of the records of a file, and the columns that hold them."""

    kind: Kind
    names: Mapping[str, str]
    """Role -> name of its column."""

    @property
    def image(self) -> str:
        """Column of the image; "" if the file has none."""
        return self.names.get(_IMAGE, "")

    def recipe(self, *, has_image: bool) -> SourceRecipe:
        """Return the recipe by which a normalised row becomes a record."""
        roles = {role: role for role in _CALLED_FOR_RECORDS[self.kind]}
        needs_image = has_image or self.kind is not Kind.CHAT
        return SourceRecipe(
            kind=self.kind,
            place="",
            licence="",
            columns=roles | ({_IMAGE: _IMAGE} if needs_image else {}),
        )


def find_columns(row: Mapping[str, Any], given: Mapping[str, str]) -> Columns:
    """Return the columns of a row; rows of JSON files need not have the same ones.

    Args:
        row: The row.
        given: Role -> column, as the user names them; other columns are found by name.

    Raises:
        DroppedError: If no kind of record fits.
    """
    usual = {role: (given[role],) if role in given else COLUMN_NAMES[role] for role in COLUMN_NAMES}
    found = {role: _first_filled(row, names) for role, names in usual.items()}
    kinds = [k for k, roles in _CALLED_FOR_RECORDS.items() if all(found[role] for role in roles)]
    wanted = [k for k in kinds if any(role in given for role in _CALLED_FOR_RECORDS[k])]
    if not kinds:
        raise DroppedError(
            "no column of conversations, of questions and answers, or of captions (name them: "
            "--columns conversation=NAME image=NAME)",
            f"the columns are {', '.join(map(str, row))}"[:_SHOWN],
        )
    kind = (wanted or kinds)[0]
    roles = (*_CALLED_FOR_RECORDS[kind], _IMAGE)
    return Columns(kind=kind, names={role: found[role] for role in roles if found[role]})


def check_roles(given: Mapping[str, str]) -> None:
    """Check the roles of columns that the user names.

    Raises:
        ConfigError: If a role is unknown.
    """
    for role in given:
        if role not in COLUMN_NAMES:
            raise ConfigError(unknown_name("role in --columns", role, COLUMN_NAMES))


def _first_filled(row: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of the names whose column is filled, else the first that exists, or ""."""
    present = [name for name in names if name in row]
    filled = (name for name in present if row[name] not in (None, "", b"", []))
    return next(filled, present[0] if present else "")

"""Columns of conversation files, found by the names that are usual for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from core.errors import ConfigError, DataError, unknown_name
from data_prep.foreign.roles import COLUMN_NAMES
from data_prep.prepare.recipe import Kind, SourceRecipe

_IMAGE = "image"
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


def find_columns(row: Mapping[str, Any], file: str, given: Mapping[str, str]) -> Columns:
    """Return the columns of a file, from its first readable row.

    Args:
        row: The row.
        file: Name of the file in error messages.
        given: Role -> column, as the user names them; other columns are found by name.

    Raises:
        ConfigError: If a role is unknown.
        DataError: If a column that the user names does not exist, or no kind of record fits.
    """
    for role, name in given.items():
        if role not in COLUMN_NAMES:
            raise ConfigError(unknown_name("role in --columns", role, COLUMN_NAMES))
        if name not in row:
            raise DataError(
                f"{file} has no column '{name}' (--columns {role}={name}); its columns: "
                f"{', '.join(map(str, row))}"
            )
    found = {
        role: given.get(role) or next((name for name in names if name in row), "")
        for role, names in COLUMN_NAMES.items()
    }
    kinds = [k for k, roles in _CALLED_FOR_RECORDS.items() if all(found[role] for role in roles)]
    wanted = [k for k in kinds if any(role in given for role in _CALLED_FOR_RECORDS[k])]
    if not kinds:
        raise DataError(
            f"{file} has no column of conversations (conversations, messages), of questions and "
            f"answers, or of captions; its columns: {', '.join(map(str, row))}. Name them: "
            "--columns conversation=NAME image=NAME"
        )
    kind = (wanted or kinds)[0]
    roles = (*_CALLED_FOR_RECORDS[kind], _IMAGE)
    return Columns(kind=kind, names={role: found[role] for role in roles if found[role]})

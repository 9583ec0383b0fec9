"""Errors that a user can cause.

Each message states what is wrong, the offending value, and the fix. The classes are defined apart
from the code that raises them, so that every layer can catch them.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_MAX_NAMES, _NUM_NEAREST = 60, 12
"""A message lists up to _MAX_NAMES names; of more, only the _NUM_NEAREST closest ones."""
UNDECODABLE = "image cannot be decoded"
"""Fault of an image that the decoder rejects."""


class IrudimenError(Exception):
    """Base class of errors that commands report without a traceback."""


class ConfigError(IrudimenError):
    """Invalid configuration value, name or combination."""


class TooShortError(ConfigError):
    """Length in the configuration that is too short for the data."""

    def __init__(self, message: str, settings: Sequence[str]) -> None:
        super().__init__(message, tuple(settings))
        self.settings = tuple(settings)
        """Overrides (KEY=VALUE) that are enough."""

    def __str__(self) -> str:
        """Return the message without the overrides."""
        return str(self.args[0])


class DataError(IrudimenError):
    """Invalid shard, manifest, image or record."""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message, fault)
        self.fault = fault
        """Short description, equal for all samples with this fault; they are counted by it."""

    def __str__(self) -> str:
        """Return the message without the fault."""
        return str(self.args[0])


class CheckpointError(IrudimenError):
    """Checkpoint or weights file that is missing, damaged or does not fit."""


class UnsavedError(CheckpointError):
    """Repeated failures to save a checkpoint."""


class NotFiniteError(IrudimenError):
    """Loss or gradient that is infinite or not a number."""


class StageFailedError(IrudimenError):
    """Failure of at least one stage of a grid; finished stages are kept."""


class PreemptedError(IrudimenError):
    """Run that was asked to stop, saved its state and can be resumed."""


def unknown_name(kind: str, value: str, known: Iterable[str], *, fix: str = "") -> str:
    """Return an error message for an unknown name that suggests the nearest known one."""
    names = sorted(known)
    near = [name for name in names if name.casefold() == value.casefold()]
    near = near or get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    listed = names
    if len(names) > _MAX_NAMES:
        listed = get_close_matches(value, names, n=_NUM_NEAREST, cutoff=0)
    more = f" and {len(names) - len(listed)} more" if len(listed) < len(names) else ""
    choices = ", ".join(listed) or "none"
    return f"unknown {kind} '{value}'.{hint} Known: {choices}{more}. {fix}".rstrip()

"""Errors a user can cause; each message says what, the offending value, and the fix.

Kept apart from the code that raises them so that every layer can catch them by kind.
"""

from collections.abc import Iterable
from difflib import get_close_matches

_MANY, _FEW = 60, 12
"""Of more names than _MANY only the _FEW nearest are told."""
UNDECODABLE = "image cannot be decoded"
"""The fault of an image that its library refuses."""


class IrudimenError(Exception):
    """Base of every error that the command line shows without a traceback."""


class ConfigError(IrudimenError):
    """A configuration value, name or combination that can't be run."""


class DataError(IrudimenError):
    """A shard, manifest, image or record that can't be used as it is."""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message, fault)
        self.fault = fault
        """A few words, the same for all samples with this fault; what they are counted by."""

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[0])


class CheckpointError(IrudimenError):
    """A checkpoint or weights file that is missing, damaged or does not fit."""


class UnsavedError(CheckpointError):
    """The storage took no checkpoint, again and again."""


class NotFiniteError(IrudimenError):
    """A training whose loss or gradient is infinite or no number."""


class StageFailedError(IrudimenError):
    """At least one stage of a grid failed; what finished stays finished."""


class PreemptedError(IrudimenError):
    """The run was asked to stop, saved its state and can be continued."""


def unknown_name(kind: str, value: str, known: Iterable[str], *, fix: str = "") -> str:
    """Word the message for a name that isn't known, with the nearest match first."""
    names = sorted(known)
    near = get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    few = get_close_matches(value, names, n=_FEW, cutoff=0) if len(names) > _MANY else names
    more = f" and {len(names) - len(few)} more" if len(few) < len(names) else ""
    return (
        f"unknown {kind} '{value}'.{hint} Known: {', '.join(few) or 'none'}{more}. {fix}".rstrip()
    )

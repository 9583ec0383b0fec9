"""Names on the Hugging Face hub: pinned revisions, and errors that say what to do about them."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from core.errors import ConfigError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{8,}")
_NEEDS_RIGHTS = (401, 403)
_TRUE = ("1", "ON", "YES", "TRUE")


def is_hub_name(path: str | Path) -> bool:
    """Whether `owner/name` can only mean the hub: nothing of that name lies on this disk."""
    return bool(_HUB_NAME.fullmatch(str(path))) and not Path(path).exists()


def hub_arguments(path: str | Path, revision: str, *, kind: str) -> dict[str, Any]:
    """The `revision` argument of a `from_pretrained`, checked.

    Raises:
        ConfigError: a hub name without a revision: its main branch moves, and results with it.
    """
    if not is_hub_name(path):
        return {}
    if not revision:
        raise ConfigError(
            f"{kind} '{path}': no such folder here, and as a name on the hub it needs a revision, "
            "because the hub's files change. Set `revision` to a commit "
            f"(https://huggingface.co/{path}/commits/main), or to main to follow it knowingly"
        )
    return {"revision": revision}


def explain(error: BaseException, path: str | Path, revision: str = "") -> str:
    """What went wrong with a download and what to do; access tokens are never part of it."""
    name = str(path)
    if not is_hub_name(name):
        return _TOKEN.sub("hf_***", str(error))
    get = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    page = f"https://huggingface.co/{name}"
    for link in _chain(error):
        if isinstance(link, GatedRepoError):
            return (
                f"its licence must be accepted: do so at {page}, run `hf auth login` (or set "
                "HF_TOKEN), and start again"
            )
        if isinstance(link, RevisionNotFoundError):
            return f"it has no revision '{revision}'; see {page}/commits/main"
        if isinstance(link, RepositoryNotFoundError) or _status(link) in _NEEDS_RIGHTS:
            return (
                f"the hub has no {page}, or it is private or gated. Check the name; accept its "
                "licence on that page; run `hf auth login`"
            )
        if isinstance(link, LocalEntryNotFoundError | OfflineModeIsEnabled):
            break
    else:
        if not is_offline():
            return _TOKEN.sub("hf_***", str(error))
    why = "HF_HUB_OFFLINE is set" if is_offline() else "the hub can't be reached"
    return f"it is not in the cache and {why}; with a network, run `{get}` first (same HF_HOME)"


def is_offline() -> bool:
    """Whether the user forbids downloads."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in _TRUE for name in names)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _status(error: BaseException) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)

"""Hugging Face hub: pinned revisions and actionable download errors."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import try_to_load_from_cache
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
_FORBIDDEN = (401, 403)
_HTTP_LIBRARIES = ("httpx", "httpx2", "requests")
"""Libraries that versions of `huggingface_hub` use."""
_TRUE = ("1", "ON", "YES", "TRUE")


def is_hub_name(path: str | Path) -> bool:
    """Return whether a path is `owner/name` on the hub: there is no local file of that name."""
    return bool(_HUB_NAME.fullmatch(str(path))) and not Path(path).exists()


def hub_arguments(path: str | Path, revision: str, *, kind: str) -> dict[str, Any]:
    """Return the `revision` argument for `from_pretrained`.

    Raises:
        ConfigError: If a hub name has no revision; results would change with its main branch.
    """
    if not is_hub_name(path):
        return {}
    if not revision:
        raise ConfigError(
            f"{kind} '{path}' is not a local folder, and a model on the hub needs a revision, "
            "because its files may change. Set `revision` to a commit "
            f"(https://huggingface.co/{path}/commits/main), or to main to follow that branch"
        )
    return {"revision": revision}


LOADING_ERRORS: tuple[type[Exception], ...] = (Exception,)
"""Errors of libraries that load models, for files that are missing, damaged or of another model.

They raise arbitrary exceptions: `tokenizers` raises `Exception` itself, and a damaged configuration
leads to attribute, index and assertion errors inside the models."""


def explain_hub_error(
    error: BaseException,
    path: str | Path,
    revision: str = "",
    *,
    kind: Literal["model", "dataset"] = "model",
    offline_fix: str = "",
) -> str:
    """Explain a failed download and its fix; access tokens are removed from the message.

    Args:
        error: The error.
        path: Name on the hub, or local path.
        revision: Requested revision.
        kind: Kind of the repository.
        offline_fix: What to do without network access; empty for the command that downloads it.
    """
    name = str(path)
    if kind == "model" and not is_hub_name(name):
        return _TOKEN.sub("hf_***", str(error))
    get = f"hf download {name}" + (f" --revision {revision}" if revision else "")
    page = f"https://huggingface.co/{name}"
    if kind == "dataset":
        get, page = f"{get} --repo-type dataset", f"https://huggingface.co/datasets/{name}"
    for link in _chain(error):
        if isinstance(link, GatedRepoError):
            return f"accept its licence at {page}, run `hf auth login` (or set HF_TOKEN), and retry"
        if isinstance(link, RevisionNotFoundError):
            return f"it has no revision '{revision}'; see {page}/commits/main"
        if isinstance(link, RepositoryNotFoundError) or _status(link) in _FORBIDDEN:
            return (
                f"{page} does not exist, or is private or gated. Check the name, accept its "
                "licence on that page, and run `hf auth login`"
            )
        if isinstance(link, LocalEntryNotFoundError | OfflineModeIsEnabled) or _is_unsent(link):
            break
    else:
        if not is_offline():
            return _TOKEN.sub("hf_***", str(error))
    reason = "HF_HUB_OFFLINE is set" if is_offline() else "the hub can't be reached"
    fix = offline_fix or f"run `{get}` on a machine with network access first (same HF_HOME)"
    return f"it is not in the cache and {reason}; {fix}"


def hub_commit(name: str, revision: str) -> str:
    """Return the commit of a downloaded model; its revision if nothing was downloaded."""
    file = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else revision


def is_offline() -> bool:
    """Return whether the user has disabled downloads."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in _TRUE for name in names)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _is_unsent(error: BaseException) -> bool:
    """Return whether an HTTP library raised the error without a response, e.g. no connection."""
    return type(error).__module__.partition(".")[0] in _HTTP_LIBRARIES and not _status(error)


def _status(error: BaseException) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)

"""Upload of an exported folder to a model hub, and its dry run."""

import dataclasses
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from core.errors import ConfigError
from core.io.hub import explain_hub_error


@dataclasses.dataclass(frozen=True, kw_only=True)
class UploadPlan:
    """Files that an upload sends."""

    repository: str
    endpoint: str
    files: tuple[tuple[str, int], ...]
    """Path inside of the folder and size in bytes."""

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(size for _, size in self.files)


def plan_upload(folder: Path, repository: str) -> UploadPlan:
    """Return what an upload of an exported folder would send; nothing is sent."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return UploadPlan(
        repository=repository,
        endpoint=constants.ENDPOINT,
        files=tuple((str(path.relative_to(folder)), path.stat().st_size) for path in files),
    )


def upload(folder: Path, repository: str, *, is_private: bool) -> str:
    """Create a repository unless it exists, upload a folder in one commit, and return its address.

    Raises:
        ConfigError: If the hub rejects a request or can't be reached.
    """
    api = HfApi()
    try:
        api.create_repo(repository, private=is_private, exist_ok=True, repo_type="model")
        found = api.upload_folder(
            folder_path=folder, repo_id=repository, commit_message="Export of a trained cell"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise ConfigError(
            f"--push {repository}: {explain_hub_error(error, repository)} (the export in {folder} "
            "is complete)"
        ) from error
    return str(found.commit_url)

"""Notes on what was uploaded to MLflow, one beside each stage run.

With them any process can continue an upload that another one began.
"""

import json
from pathlib import Path
from typing import Any

from core.io.files import atomic_write_text
from core.process.log import without_password
from pipeline.store.notes import read_note
from reporting.tracking.client import MlflowClient, MlflowException

RUN_FILE = "mlflow_run.json"


class UploadNotes:
    """Store for the upload notes of one tracking server.

    A note contains the run that owns the stage run (`owner`), the runs that represent it in each
    grid (`runs`, by parent run), the position in the log up to which metrics were uploaded, the
    last step of each metric, and the end time of the result that was uploaded.
    """

    def __init__(self, client: MlflowClient, uri: str, root: str) -> None:
        """Use the notes of the server at an address, and of the output folder with an identity.

        The notes of a copied folder refer to runs of the original.
        """
        self._client = client
        self._root = root
        self._uri = without_password(uri)

    def read(self, stage_dir: Path) -> dict[str, Any]:
        """Read a note; one of another server or folder, or of a deleted run, is replaced."""
        note = read_note(stage_dir / RUN_FILE)
        is_ours = note.get("uri") == self._uri and note.get("root") == self._root
        if is_ours and self.is_active(note["owner"]):
            note["runs"] = {p: r for p, r in note["runs"].items() if self.is_active(r)}
            return note
        return {
            "uri": self._uri, "root": self._root, "owner": "", "runs": {},
            "position": {"inode": 0, "offset": 0}, "last_step": {}, "finished": None,
        }  # fmt: skip

    def write(self, stage_dir: Path, note: dict[str, Any]) -> None:
        """Write a note."""
        atomic_write_text(stage_dir / RUN_FILE, json.dumps(note, indent=1))

    def is_active(self, run_id: str) -> bool:
        """Return whether MLflow has a run that is not deleted."""
        try:
            return bool(self._client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

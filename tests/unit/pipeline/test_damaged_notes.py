"""Files beside a result that a crash left empty or damaged never stop a grid or its report."""

import json
from pathlib import Path

import pytest

from core.errors import DataError
from pipeline.store.notes import read_grid_json
from pipeline.store.records import load_stage
from pipeline.store.states import State
from pipeline.store.store import StageFolder, Status
from reporting.tracking.upload_notes import RUN_FILE, UploadNotes

DAMAGED = ("", "{", "null", "[]", '{"state": "nothing"}', "\x00" * 20)


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_status_starts_again(tmp_path: Path, content: str) -> None:
    folder = StageFolder(tmp_path)
    folder.write_status(Status(state=State.FAILED, attempts=3))
    assert folder.read_status().attempts == 3
    (tmp_path / "status.json").write_text(content)
    assert folder.read_status() == Status()


@pytest.mark.parametrize("name", ["progress.json", "status.json"])
@pytest.mark.parametrize("content", DAMAGED[:4])
def test_a_report_ignores_damaged_notes(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "stage.json").write_text(json.dumps({"kind": "align", "address": "a"}))
    (tmp_path / name).write_text(content)
    record = load_stage(tmp_path)
    assert (record.kind, record.state, record.steps) == ("align", State.WAITING, 0)


@pytest.mark.parametrize("content", DAMAGED[:4])
def test_a_damaged_note_of_an_upload_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / RUN_FILE).write_text(content)

    class Unused:
        """Client of a server that is not asked."""

    note = UploadNotes(Unused(), "sqlite:///x", "id").read(tmp_path)  # type: ignore[arg-type]
    assert (note["owner"], note["runs"]) == ("", {})


@pytest.mark.parametrize("content", DAMAGED[:4])
def test_the_fix_for_a_damaged_grid_file_works(tmp_path: Path, content: str) -> None:
    """The next run reads the file too, so it can only write it again once it is deleted."""
    path = tmp_path / "grid.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"grid\.json .*; delete it and run the grid again"):
        read_grid_json(tmp_path, default={})
    path.unlink()
    assert read_grid_json(tmp_path, default={}) == {}

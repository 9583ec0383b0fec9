"""The note on the SLURM job of a stage run follows a moved folder, and not a copied one."""

import shutil
from pathlib import Path

from pipeline.launchers.slurm import read_job_id, write_job_id


def test_a_copy_does_not_take_the_jobs_of_the_original(tmp_path: Path) -> None:
    original = tmp_path / "original"
    original.mkdir()
    assert read_job_id(original) == ""
    write_job_id(original, "17")
    assert read_job_id(original) == "17"
    copied = Path(shutil.copytree(original, tmp_path / "copy"))
    assert read_job_id(copied) == ""
    (tmp_path / "link").symlink_to(original)
    assert read_job_id(tmp_path / "link") == "17"
    assert read_job_id(original.rename(tmp_path / "moved")) == "17"
    write_job_id(tmp_path / "moved", "")
    assert read_job_id(tmp_path / "moved") == ""

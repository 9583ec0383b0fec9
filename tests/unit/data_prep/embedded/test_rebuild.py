"""Builds from the real packages; skipped where the packages are missing."""

import os
from pathlib import Path

import pytest

from data_prep.embedded import __main__ as embedded
from data_prep.embedded import running_text
from data_prep.embedded.drawings import Style
from data_prep.embedded.packages import DEFAULT_FOLDER, read_lock
from datamodules.shards.manifest import verify
from datamodules.shards.reader import ShardReader

PACKAGES = Path(os.environ.get("IRUDIMEN_PACKAGES", DEFAULT_FOLDER)).expanduser()
STYLES = {style.package for style in Style}
MISSING = [
    lock.file_name
    for name, lock in read_lock().items()
    if (name in STYLES or name.startswith("cldr"))
    and not any((folder / lock.file_name).is_file() for folder in (PACKAGES, PACKAGES / "npm"))
]

pytest.importorskip("resvg_py", reason="resvg-py is not installed: pip install -e .[data]")

pytestmark = [
    pytest.mark.packages,
    pytest.mark.skipif(
        bool(MISSING),
        reason=f"{len(MISSING)} npm packages are not in {PACKAGES}; name their folder in "
        "IRUDIMEN_PACKAGES, or run python -m data_prep.embedded once",
    ),
]


def build(folder, *arguments):
    return embedded.main(["--packages", str(PACKAGES), "--out", str(folder), *arguments])


@pytest.mark.slow
def test_spanish_data_need_only_a_language_file(tmp_path):
    assert build(tmp_path, "--languages", "en", "es", "--concepts", "12", "--without-text") == 0
    assert not any(tmp_path.glob("text*"))
    verify(tmp_path / "emoji_instruct_es.manifest.json", deep=True)
    reader = ShardReader(tmp_path / "train-0-000000.tar")
    text = b"".join(reader.read(row)[0] for row in range(len(reader))).decode()
    assert "¿Qué es esto?" in text
    assert "hormiga" in text
    assert "autobús" in text


@pytest.mark.slow
def test_a_language_without_help_pages_lacks_only_running_text(tmp_path, monkeypatch, capsys):
    def read_pages(_, languages):
        assert [language.code for language in languages] == ["en"]
        return {"a.html": [("The first paragraph says what the window of the program shows.",)]}

    monkeypatch.setattr(running_text, "read_pages", read_pages)
    assert build(tmp_path, "--languages", "en", "cy", "--concepts", "12") == 0
    assert "no running text in 'cy'" in " ".join(capsys.readouterr().err.split())
    assert verify(tmp_path / "text_en.manifest.json", deep=True).num_samples == 1
    assert not (tmp_path / "text_cy.manifest.json").exists()
    assert (tmp_path / "chat_cy.manifest.json").exists()


@pytest.mark.slow
def test_a_small_build_is_reproducible_and_check_detects_a_change(tmp_path, capsys):
    arguments = ("--concepts", "16", "--without-text")
    assert build(tmp_path, *arguments) == 0
    assert build(tmp_path, *arguments, "--check") == 0
    path = tmp_path / "chat-000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert build(tmp_path, *arguments, "--check") == 2
    assert "chat-000000.tar" in capsys.readouterr().err

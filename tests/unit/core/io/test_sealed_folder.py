"""A sealed folder is complete, or its damage is found."""

from pathlib import Path

import pytest

from core.io.sealed_folder import SEAL_FILE, find_damage, publish_folder, read_seal, seal_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    temporary = tmp_path / ".result.tmp"
    (temporary / "inner").mkdir(parents=True)
    (temporary / "a.bin").write_bytes(b"aaaa")
    (temporary / "inner" / "b.bin").write_bytes(b"bbbb")
    seal_folder(temporary, step=6)
    final = tmp_path / "results" / "result"
    publish_folder(temporary, final)
    assert not temporary.exists()
    return final


def test_an_intact_folder_has_no_damage(folder: Path) -> None:
    assert find_damage(folder) is None
    assert read_seal(folder).metadata == {"step": 6}
    assert set(read_seal(folder).files) == {"a.bin", "inner/b.bin"}


def test_every_kind_of_damage_is_found(folder: Path) -> None:
    path = folder / "inner" / "b.bin"
    path.write_bytes(b"bbbc")
    assert find_damage(folder) == "inner/b.bin: checksum differs"
    path.write_bytes(b"bbb")
    assert find_damage(folder) == "inner/b.bin: 3 bytes instead of 4"
    path.unlink()
    assert find_damage(folder) == "inner/b.bin: No such file or directory"


@pytest.mark.parametrize("content", ["", '{"files": {"a', "[]", "{}", '{"files": 3}'])
def test_a_damaged_seal_is_found(folder: Path, content: str) -> None:
    (folder / SEAL_FILE).write_text(content)
    assert find_damage(folder) == "complete.json is damaged"


def test_a_flipped_digit_of_the_metadata_is_found(folder: Path) -> None:
    seal = folder / SEAL_FILE
    seal.write_text(seal.read_text().replace('"step": 6', '"step": 7'))
    assert find_damage(folder) == "complete.json is damaged"


def test_a_missing_or_empty_seal_is_found(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    seal_folder(empty)
    assert find_damage(empty) == "complete.json lists no files"
    (folder / SEAL_FILE).unlink()
    assert find_damage(folder) == "complete.json: No such file or directory"


def test_leftovers_of_a_killed_writer_are_no_part_of_a_result(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"aaaa")
    (tmp_path / ".weights.safetensors.77-0a1b2c3d.tmp").write_bytes(b"half")
    seal_folder(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", SEAL_FILE]
    assert set(read_seal(tmp_path).files) == {"a.bin"}

"""Atomic writes, checksums and safe paths."""

import hashlib
from pathlib import Path

import pytest

from core.errors import DataError, PreemptedError, unknown_name
from core.io.files import (
    atomic_write_bytes,
    atomic_write_text,
    locked,
    safe_join,
    sha256_bytes,
    sha256_file,
)


def test_atomic_write_leaves_only_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.bin"
    atomic_write_bytes(path, b"one")
    atomic_write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    atomic_write_text(path, "old")
    with pytest.raises(TypeError):
        atomic_write_bytes(path, "not bytes")
    assert path.read_text() == "old"


def test_sha256(tmp_path: Path) -> None:
    content = b"x" * (3 << 20)
    (tmp_path / "f").write_bytes(content)
    assert sha256_file(tmp_path / "f") == sha256_bytes(content)
    assert sha256_bytes(content) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "a/../../x"])
def test_safe_join_rejects_paths_outside_the_folder(tmp_path: Path, relative: str) -> None:
    with pytest.raises(DataError, match="leaves its folder"):
        safe_join(tmp_path, relative)


def test_safe_join_rejects_links_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="leaves its folder"):
        safe_join(inside, "link/x")
    assert safe_join(inside, "a/b.tar") == (inside / "a" / "b.tar").resolve()


def test_unknown_name_suggests_the_nearest() -> None:
    text = unknown_name("source", "emoji_ue", ["emoji_eu", "text_en"])
    assert text == "unknown source 'emoji_ue'. Did you mean 'emoji_eu'? Known: emoji_eu, text_en."
    assert unknown_name("source", "q", []).endswith("Known: none.")


def test_waiting_for_a_lock_ends_when_asked_to_stop(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    replies = iter([False, False, True])
    with (
        locked(lock),
        pytest.raises(PreemptedError, match="another process held"),
        locked(lock, is_stopped=lambda: next(replies)),
    ):
        pytest.fail("the lock is held")
    assert list(replies) == []
    with locked(lock, is_stopped=lambda: True):
        pass

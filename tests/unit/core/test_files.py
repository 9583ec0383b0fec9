"""Atomic writes, checksums and safe paths."""

import hashlib
import os
from pathlib import Path

import pytest

from core.errors import DataError, PreemptedError, unknown_name
from core.io import files
from core.io.files import (
    atomic_write_bytes,
    atomic_write_text,
    locked,
    safe_join,
    sha256_bytes,
    sha256_file,
    sha256_once,
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


def test_a_file_is_hashed_again_only_after_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link, hashed = tmp_path / "f", tmp_path / "link", list[Path]()
    path.write_bytes(b"one")
    link.symlink_to(path)
    monkeypatch.setattr(files, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    assert sha256_once(path) == sha256_once(path) == sha256_once(link) == sha256_bytes(b"one")
    assert hashed == [path]
    atomic_write_bytes(path, b"two")
    assert sha256_once(path) == sha256_bytes(b"two")
    os.utime(path, ns=(0, 0))
    assert sha256_once(path) == sha256_bytes(b"two")
    assert hashed == [path] * 3


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

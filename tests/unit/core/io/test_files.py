"""Atomic writes, checksums and safe paths."""

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from core.errors import ConfigError, DataError, PreemptedError, unknown_name
from core.io import files
from core.io.files import (
    atomic_file,
    atomic_path,
    atomic_write_bytes,
    atomic_write_text,
    lock_path,
    locked,
    present,
    safe_join,
    sha256_bytes,
    sha256_file,
    sha256_once,
    sole_writer,
    temporary_path,
    use_umask,
    warning_if_unwritten,
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
    with pytest.raises(DataError, match="points outside"):
        safe_join(tmp_path, relative)


def test_safe_join_rejects_links_out_of_the_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    with pytest.raises(DataError, match="points outside"):
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


def test_a_lock_that_is_held_for_too_long_is_an_error(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(TimeoutError, match=r"another process holds the lock: .*lock"),
        locked(tmp_path / "lock", timeout_s=0.0),
    ):
        pytest.fail("the lock is held")


def test_a_second_writer_is_refused_and_a_later_one_is_not(tmp_path: Path) -> None:
    target = tmp_path / "new" / "out"
    with (
        sole_writer(target),
        pytest.raises(ConfigError, match=r"another command is writing .*/new/out; wait"),
        sole_writer(target.parent / "." / "out"),
    ):
        pytest.fail("the folder is being written")
    for _ in range(2):
        with sole_writer(target):
            assert [path.name for path in target.parent.iterdir()] == [".out.lock"]
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic_write_text(path, "old")

    def write() -> None:
        with atomic_file(path) as file:
            file.write(b"a part")
            file.flush()
            raise OSError(errno.ENOSPC, "the system names no file")

    with pytest.raises(OSError, match=r"No space left on device: .*/file'") as failure:
        write()
    assert failure.value.filename == str(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"], "the space is free again"


def test_a_note_that_can_not_be_written_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        with warning_if_unwritten(tmp_path / "note"):
            raise OSError(errno.ENOSPC, "")
    (record,) = caplog.records
    assert "note can't be written (No space left on device)" in record.getMessage()


@pytest.mark.parametrize(("mask", "expected"), [(0o077, 0o600), (0o027, 0o640), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_umask_leaves(
    tmp_path: Path, mask: int, expected: int
) -> None:
    before = os.umask(mask)
    try:
        atomic_write_text(tmp_path / "file", "")
        with atomic_path(tmp_path / "weights") as temporary:  # written by rename, and private
            save_file({"w": torch.zeros(1)}, temporary)
        folder = tmp_path / "folder"
        (folder / "inner").mkdir(parents=True)
        save_file({"w": torch.zeros(1)}, folder / "inner" / "w.safetensors")
        use_umask(folder)
    finally:
        os.umask(before)
    for name in ("file", "weights", "folder/inner/w.safetensors"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == expected


def test_writers_with_the_same_process_id_use_different_files(tmp_path: Path) -> None:
    """The process ids of two containers that share a folder may be equal."""
    assert temporary_path(tmp_path / "file") != temporary_path(tmp_path / "file")


def test_the_lock_of_a_mounted_folder_is_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lock_path(tmp_path / "out") == tmp_path / ".out.lock"
    (tmp_path / "out").mkdir()
    assert lock_path(tmp_path / "out") == tmp_path / ".out.lock"
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert lock_path(tmp_path / "out") == tmp_path / "out" / ".lock"
    assert lock_path(tmp_path / "new") == tmp_path / ".new.lock"


def test_processes_that_use_something_find_each_other(tmp_path: Path) -> None:
    with present(tmp_path / "running") as first_has_others:
        assert not first_has_others()
        with present(tmp_path / "running") as second_has_others:
            assert first_has_others()
            assert second_has_others()
            assert first_has_others(), "asking does not end the presence"
        assert not first_has_others()

"""The shard cache on one node: size limit, checksums, retries and errors."""

import contextlib
import errno
import os
import pickle
import threading
import time

import fsspec
import pytest

from core.errors import ConfigError, DataError, IrudimenError
from core.io.files import sha256_bytes
from datamodules.storage import cache as cache_module
from datamodules.storage import download, remote
from datamodules.storage.cache import ShardCache
from datamodules.storage.download import CacheConfig, NoRoomError, RemoteFile
from datamodules.storage.remote import (
    RangeStream,
    RetryConfig,
    StorageError,
    file_info,
    is_url,
    redact_url,
)

SIZE = 1000
QUICK = RetryConfig(attempts=3, first_delay_s=0.0, max_delay_s=0.0)


@pytest.fixture
def upload():
    """Puts bytes into fsspec's in-process store and returns their manifest entry."""
    system = fsspec.filesystem("memory")

    def put(name, content=None):
        content = name.encode() * SIZE if content is None else content
        content = content[:SIZE]
        system.pipe_file(f"/{name}", content)
        return RemoteFile(
            url=f"memory://{name}", sha256=sha256_bytes(content), num_bytes=len(content)
        )

    yield put
    system.store.clear()


def parts(cache):
    return list(cache.folder.glob("*.part"))


def make_cache(tmp_path, *, num_files=10, **changes):
    values = {"folder": str(tmp_path / "cache"), "max_gb": (num_files * SIZE + 1) / 1e9}
    return ShardCache(
        CacheConfig(**{**values, "retry": QUICK, "room_wait_s": 0.0, "chunk_bytes": 300, **changes})
    )


def read(cache, file):
    with cache.use(file) as opened:
        return opened.read()


def cached(cache):
    files = {path.name for path in cache.folder.iterdir() if path.is_file()}
    return {name for name in files if not name.endswith(".part")}


@pytest.fixture
def reads(monkeypatch):
    """Counts requests; tests can inject a fault before each."""
    seen, faults = [], []
    original = download.read_range

    def counted(url, start, stop, retry):
        seen.append((url, start, stop))
        return faults.pop(0)() if faults else original(url, start, stop, retry)

    monkeypatch.setattr(download, "read_range", counted)
    return seen, faults


def test_a_file_is_fetched_once_in_chunks(tmp_path, upload, reads):
    cache, file = make_cache(tmp_path), upload("a")
    assert read(cache, file) == b"a" * SIZE
    assert [stop - start for _, start, stop in reads[0]] == [300, 300, 300, 100]
    assert read(cache, file) == b"a" * SIZE
    assert read(pickle.loads(pickle.dumps(cache)), file) == b"a" * SIZE
    assert len(reads[0]) == 4
    assert cached(cache) == {file.sha256}


def test_identical_files_are_stored_once(tmp_path, upload, reads):
    cache = make_cache(tmp_path)
    read(cache, upload("a", b"same"))
    read(cache, upload("b", b"same"))
    assert len(reads[0]) == 1


def test_the_least_recently_used_file_is_evicted_first(tmp_path, upload, monkeypatch):
    monkeypatch.setattr(cache_module, "_TOUCH_EVERY_S", 0.0)
    cache, files = make_cache(tmp_path, num_files=3), [upload(name) for name in "abcd"]
    for file in (files[0], files[1], files[2], files[0]):
        read(cache, file)
        time.sleep(0.002)
    read(cache, files[3])
    assert cached(cache) == {files[i].sha256 for i in (0, 2, 3)}


def test_files_in_use_are_not_evicted(tmp_path, upload):
    cache, files = make_cache(tmp_path, num_files=2), [upload(name) for name in "abc"]
    other = pickle.loads(pickle.dumps(cache))
    with cache.use(files[0]) as first, other.use(files[1]):
        with pytest.raises(NoRoomError, match=r"memory://c needs 1000 bytes.*2000 are in use"):
            read(cache, files[2])
        assert first.read() == b"a" * SIZE
    assert read(other, files[2]) == b"c" * SIZE
    assert files[2].sha256 in cached(cache)
    assert len(cached(cache)) == 2


def test_fetching_waits_for_files_in_use(tmp_path, upload):
    cache, files = make_cache(tmp_path, num_files=1, room_wait_s=30.0), [upload(n) for n in "ab"]
    lease = contextlib.ExitStack()
    lease.enter_context(cache.use(files[0]))
    timer = threading.Timer(0.2, lease.close)
    timer.start()
    assert read(cache, files[1]) == b"b" * SIZE
    timer.join()
    assert cached(cache) == {files[1].sha256}


def test_a_file_above_the_limit_is_an_error(tmp_path, upload):
    cache, file = make_cache(tmp_path, max_gb=900 / 1e9, room_wait_s=60.0), upload("a")
    with pytest.raises(NoRoomError, match="limited to 900, of which 0 are in use; raise max_gb"):
        read(cache, file)
    assert cached(cache) == set()
    assert parts(cache) == []


@pytest.mark.parametrize("where", ["_write_at", "fallocate"])
def test_a_full_disk_is_reported_with_the_required_bytes(tmp_path, upload, monkeypatch, where):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = (
        (download, "_write_at") if where == "_write_at" else (cache_module.os, "posix_fallocate")
    )
    monkeypatch.setattr(*target, full)
    cache, file = make_cache(tmp_path), upload("a")
    with pytest.raises(NoRoomError, match=r"disk full: memory://a needs 1000 bytes in .* are free"):
        read(cache, file)
    assert cached(cache) == set()
    assert parts(cache) == []
    monkeypatch.undo()
    assert read(cache, file) == b"a" * SIZE


def test_files_are_evicted_when_others_fill_the_disk(tmp_path, upload, monkeypatch):
    cache, (old, new) = make_cache(tmp_path), [upload(name) for name in "ab"]
    read(cache, old)

    class Usage:
        @property
        def free(self):
            return 0 if cached(cache) else SIZE

    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: Usage())
    assert read(cache, new) == b"b" * SIZE
    assert cached(cache) == {new.sha256}


def test_parts_of_dead_downloads_are_evicted(tmp_path, upload):
    cache, file = make_cache(tmp_path, num_files=1), upload("a")
    cache.folder.mkdir()
    (cache.folder / ("0" * 64 + ".part")).write_bytes(b"x" * SIZE)
    (cache.folder / (file.sha256 + ".part")).write_bytes(b"y" * SIZE)
    assert read(cache, file) == b"a" * SIZE
    assert cached(cache) == {file.sha256}
    assert parts(cache) == []


def test_a_deleted_file_is_fetched_again(tmp_path, upload, caplog):
    cache, file = make_cache(tmp_path), upload("a")
    read(cache, file)
    cache.path(file).unlink()
    assert read(cache, file) == b"a" * SIZE
    assert "memory://a was evicted and is fetched again within minutes" in caplog.text


def test_a_damaged_download_is_retried_then_raised(tmp_path, upload, reads):
    cache, file = make_cache(tmp_path, chunk_bytes=SIZE), upload("a")
    seen, faults = reads
    faults.append(lambda: b"x" * SIZE)
    assert read(cache, file) == b"a" * SIZE
    assert len(seen) == 2
    other = upload("b")
    faults.extend([lambda: b"x" * SIZE] * 3)
    with pytest.raises(StorageError) as raised:
        read(cache, other)
    message = str(raised.value)
    assert "memory://b has sha256" in message
    assert other.sha256 in message
    assert "lists 1000 bytes" in message
    assert parts(cache) == []
    assert cached(cache) == {file.sha256}


def test_storage_errors_abort_a_run_and_never_skip_a_sample():
    # StepDataset skips samples that raise DataError.
    assert not issubclass(StorageError, DataError)
    assert issubclass(StorageError, IrudimenError)
    assert issubclass(StorageError, OSError)
    assert str(pickle.loads(pickle.dumps(StorageError("words")))) == "words"


def test_files_are_prefetched_within_half_of_the_cache(tmp_path, upload, caplog):
    cache, files = make_cache(tmp_path, num_files=4), [upload(name) for name in "abc"]
    lost = RemoteFile(url="memory://none", sha256="0" * 64, num_bytes=10)
    cache.prefetch([lost, *files])
    # Half of the cache is 2000 bytes: the lost file and the first one; the second does not fit.
    wait_for(lambda: cache.path(files[0]).exists())
    failure = "background fetch failed: reading bytes 0-10 of memory://none"
    wait_for(lambda: failure in caplog.text)
    assert cached(cache) == {files[0].sha256}
    # The file that did not fit is requested again later.
    wait_for(lambda: cache.prefetch(files) or len(cached(cache)) == len(files))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_delays_grow_with_every_retry(monkeypatch, upload):
    delays, calls = [], []
    monkeypatch.setattr("core.retry.time.sleep", delays.append)
    retry = RetryConfig(attempts=6, first_delay_s=1.0, max_delay_s=5.0)

    def flaky():
        calls.append(0)
        if len(calls) < 5:
            raise ConnectionResetError("reset by peer")
        return 7

    assert remote.with_retries(flaky, "reading", retry) == 7
    assert delays == [1.0, 2.0, 4.0, 5.0]

    def dead():
        raise TimeoutError

    with pytest.raises(StorageError, match=r"reading: timed out.*after 6 attempts"):
        remote.with_retries(dead, "reading", retry)


def test_permanent_errors_are_not_retried(monkeypatch):
    monkeypatch.setattr("core.retry.time.sleep", lambda _: pytest.fail("waited"))
    with pytest.raises(StorageError, match=r"memory://none: FileNotFoundError.*correct the URL"):
        file_info("memory://none", RetryConfig())
    with pytest.raises(ConfigError, match="nosuch://x: this scheme is not supported here"):
        file_info("nosuch://x", RetryConfig())
    with pytest.raises(ConfigError, match="not a plain URL"):
        file_info("zip://a::memory://b", RetryConfig())


def test_short_reads_are_retried_then_raised(upload):
    file = upload("a")
    with pytest.raises(
        StorageError, match=r"bytes 900-1100 of memory://a.*expected 200 bytes, got 100"
    ):
        remote.read_range(file.url, 900, 1100, QUICK)


def test_a_stream_returns_all_bytes(upload, monkeypatch):
    monkeypatch.setattr(remote, "_STREAM_BYTES", 64)
    content = bytes(range(250)) * 4
    file = upload("a", content)
    stream = RangeStream(file.url, file.num_bytes, QUICK)
    pieces = iter(lambda: stream.read(50), b"")
    assert b"".join(pieces) == content


def test_messages_contain_no_secrets():
    assert redact_url("https://me:word@host/a.tar?sig=s3cret") == "https://host/a.tar?..."
    assert redact_url("/data/a b.tar") == "/data/a b.tar"
    assert [is_url(path) for path in ("s3://b/a.tar", "a/b.tar", "/a.tar")] == [True, False, False]


def test_configuration_defaults_and_limits(monkeypatch, tmp_path):
    monkeypatch.setenv("IRUDIMEN_SHARD_CACHE", str(tmp_path / "env"))
    monkeypatch.setenv("IRUDIMEN_SHARD_CACHE_GB", "2.5")
    cache = ShardCache()
    assert (cache.folder, cache.max_bytes) == (tmp_path / "env", 2_500_000_000)
    assert ShardCache(CacheConfig(max_gb=1.0)).max_bytes == 10**9
    for wrong in ("lots", "-1", "0", "nan", "inf"):
        monkeypatch.setenv("IRUDIMEN_SHARD_CACHE_GB", wrong)
        with pytest.raises(ConfigError, match=f"'{wrong}', expected a positive number"):
            ShardCache()
    for wrong in (
        {"chunk_bytes": 0},
        {"damaged_downloads": 0},
        {"max_gb": -1.0},
        {"room_wait_s": -1.0},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}="):
            CacheConfig(**wrong)
    for wrong in ({"attempts": 0}, {"first_delay_s": 9.0, "max_delay_s": 1.0}):
        with pytest.raises(ConfigError, match="expected"):
            RetryConfig(**wrong)

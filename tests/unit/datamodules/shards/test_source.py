"""Sources: records are located, validated and read; I/O errors are retried, never skipped."""

import pytest

from core.errors import DataError
from core.samples import Role
from datamodules.shards.manifest import Modality
from datamodules.shards.reader import ShardReader
from datamodules.shards.source import Source, check_parallel
from datamodules.storage.remote import StorageError
from tests.support.doubles import (
    caption_record,
    chat_record,
    make_captions,
    make_parallel,
    write_shard,
    write_source,
)


def one_sample_source(tmp_path, content, *, image=b"x", **kwargs):
    entry = write_shard(tmp_path / "one.tar", [("k1", content, image)])
    return Source(write_source(tmp_path, "one", [entry], **kwargs))


def test_reads_across_shards(tmp_path):
    source = Source(make_captions(tmp_path, "a", shard_sizes=(2, 1, 3)))
    assert len(source) == 6
    for i in range(6):
        sample = source.read(i)
        assert sample.key == source.key(i) == f"a-{i:05d}"
        assert sample.image == f"image a {i}".encode()
        assert sample.turns[-1].content.startswith(f"izena {i}")
    all_keys = source.keys()
    assert [key.decode() for key in all_keys] == [source.key(i) for i in range(6)]
    with pytest.raises(IndexError, match="sample 6 outside source 'a' of 6"):
        source.read(6)


def test_dotted_record_and_parallel_id(tmp_path):
    content = {"parallel_id": "p7", "instruct": {"eu": chat_record("g", "e", is_image=True)}}
    sample = one_sample_source(tmp_path, content, record="instruct.eu").read(0)
    assert sample.parallel_id == "p7"
    assert [turn.role for turn in sample.turns] == [Role.USER, Role.ASSISTANT]
    assert sample.language == "eu"


def test_a_text_source_ignores_the_images_of_its_shard(tmp_path):
    content = {"text": {"eu": chat_record("g", "e")}}
    source = one_sample_source(tmp_path, content, record="text.eu", modality=Modality.TEXT)
    assert source.read(0).image is None
    assert not source.has_images


def test_with_image_false_returns_empty_bytes(tmp_path):
    source = Source(make_captions(tmp_path, "a"))
    assert source.read(0, with_image=False).image == b""


@pytest.mark.parametrize(
    ("content", "record", "message"),
    [
        ({"caption": {}}, "caption.eu", r"no record 'caption\.eu' \(at 'eu', found: \)"),
        ({"x": 1}, "caption.eu", r"at 'caption', found: id, x"),
        ({"caption": {"eu": 3}}, "caption.eu", "is 3, expected an object"),
        ({"messages": []}, "", r"'messages' is \[\]"),
        ({}, "", "'messages' is None"),
        ({"messages": ["x"]}, "", r"message 'x' needs a role \(system, user, assistant, text\)"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "", "'bot'.*needs a role"),
        ({"messages": [{"role": "user", "content": 3}]}, "", "needs a role.*and a text"),
    ],
)
def test_errors_name_the_invalid_record(tmp_path, content, record, message):
    source = one_sample_source(tmp_path, content, record=record)
    with pytest.raises(DataError, match=message) as raised:
        source.read(0)
    assert "one.tar, sample 'k1'" in str(raised.value)


def test_missing_image_and_broken_json(tmp_path):
    source = one_sample_source(tmp_path, caption_record("x"), image=None)
    with pytest.raises(DataError, match="no image, but source 'one' is image-text"):
        source.read(0)
    path = tmp_path / "one.tar"
    path.write_bytes(path.read_bytes().replace(b'{"id"', b'["id"', 1))
    with pytest.raises(DataError, match=r"one\.tar, sample 'k1': not JSON"):
        source.read(0)


def test_a_key_that_is_repeated_in_a_record_replaces_nothing(tmp_path):
    source = one_sample_source(tmp_path, {"captio_": "first", "caption": "last"}, record="caption")
    path = tmp_path / "one.tar"
    path.write_bytes(path.read_bytes().replace(b"captio_", b"caption"))
    with pytest.raises(DataError, match="'caption' appears twice in an object; keep one") as raised:
        source.read(0)
    assert raised.value.fault == "JSON repeats a key"


def test_parallel_sources(tmp_path):
    base, target = map(Source, make_parallel(tmp_path, "cap"))
    check_parallel(base, target)
    assert base.read(2).image == target.read(2).image
    other = Source(make_captions(tmp_path, "b", shard_sizes=(5, 3)))
    with pytest.raises(DataError, match="sample 0 is 'cap-00000' and 'b-00000'"):
        check_parallel(base, other)
    short = Source(make_captions(tmp_path, "c", shard_sizes=(5,)))
    with pytest.raises(DataError, match="8 and 5 samples, and sample 0 is"):
        check_parallel(base, short)


def test_sources_that_end_differently_are_not_parallel(tmp_path):
    samples = [(f"k{i}", {"a": caption_record("x"), "b": caption_record("y")}) for i in range(5)]
    long = write_shard(tmp_path / "long.tar", [(k, c, b"image") for k, c in samples])
    cut = write_shard(tmp_path / "cut.tar", [(k, c, b"image") for k, c in samples[:4]])
    base = Source(write_source(tmp_path, "base", [long], record="a"))
    target = Source(write_source(tmp_path, "target", [cut], record="b"))
    with pytest.raises(DataError, match=r"5 and 4 samples, and sample 4 is 'k4' and missing"):
        check_parallel(base, target)
    split = [
        write_shard(tmp_path / f"part-{i}.tar", [(k, c, b"image") for k, c in part])
        for i, part in enumerate((samples[:2], samples[2:]))
    ]
    other = Source(write_source(tmp_path, "split", split, record="b"))
    check_parallel(base, other)
    assert other in base.parallel_sources


def test_the_number_of_open_shards_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.shards.source._MAX_OPEN_SHARDS", 2)
    source = Source(make_captions(tmp_path, "a", shard_sizes=(1,) * 6))
    for i in (0, 3, 0, 5, 2, 0, 4):
        assert source.read(i).key == f"a-{i:05d}"
    assert sorted(s for s, reader in source._readers.items() if reader._file is not None) == [0, 4]
    assert len(source.keys()) == 6


def test_captions_that_are_strings(tmp_path):
    content = {"caption": {"eu": "katu bat"}}
    sample = one_sample_source(tmp_path, content, record="caption.eu").read(0)
    assert [turn.content for turn in sample.turns] == ["<image>", "katu bat"]
    text = one_sample_source(tmp_path, content, record="caption.eu", modality=Modality.TEXT)
    assert [(turn.role, turn.content) for turn in text.read(0).turns] == [(Role.TEXT, "katu bat")]


def test_storage_errors_are_not_retried_again(tmp_path, monkeypatch):
    source, calls = Source(make_captions(tmp_path, "a")), []

    def gone(*_):
        calls.append(0)
        raise StorageError("gone")

    monkeypatch.setattr(ShardReader, "_pread", gone)
    with pytest.raises(StorageError, match="gone"):
        source.read(0)
    assert len(calls) == 1


def test_io_errors_are_retried_then_raised(tmp_path, monkeypatch):
    source = Source(make_captions(tmp_path, "a"))
    delays, failures = [], [2]
    monkeypatch.setattr("core.retry.time.sleep", delays.append)
    original = ShardReader._pread

    def flaky(self, *args):
        if failures[0] > 0:
            failures[0] -= 1
            raise OSError("stale file handle")
        return original(self, *args)

    monkeypatch.setattr(ShardReader, "_pread", flaky)
    assert source.read(1).key == "a-00001"
    assert len(delays) == 2
    assert delays == sorted(delays)
    failures[0] = 99
    with pytest.raises(OSError, match="stale file handle"):
        source.read(1)

"""Shards: the index locates every sample, and unsafe or damaged tars are rejected."""

import io
import pickle
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from data_prep.shards.writer import ShardSample, write_shard
from datamodules.shards.reader import (
    INDEX_DTYPE,
    ShardReader,
    build_index,
    index_path,
    read_index,
    write_index,
    write_known_index,
)
from datamodules.storage.remote import StorageError
from tests.support.doubles import write_tar

MEMBERS = [("a.webp", b"image"), ("a.json", b'{"id": "a"}'), ("b.json", b'{"id": "b"}')]


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "s-000000.tar"
    write_tar(path, MEMBERS)
    return path


def test_index_and_reader(tar):
    index = write_index(tar)
    assert index.dtype == INDEX_DTYPE
    assert np.array_equal(read_index(tar).rows, build_index(tar))
    assert index_path(tar).name == "s-000000.index.npy"
    reader = ShardReader(tar)
    assert len(reader) == 2
    assert reader.read(0) == (b'{"id": "a"}', b"image")
    assert reader.read(0, with_image=False) == (b'{"id": "a"}', b"")
    assert reader.read(1) == (b'{"id": "b"}', None)
    assert [reader.key(i) for i in range(2)] == ["a", "b"]
    reader.close()
    assert pickle.loads(pickle.dumps(reader)).read(1)[0] == b'{"id": "b"}'


@given(
    contents=st.lists(st.tuples(st.binary(max_size=2000), st.booleans()), min_size=1, max_size=8)
)
@settings(max_examples=25, deadline=None)
def test_any_content_round_trips(tmp_path_factory, contents):
    path = tmp_path_factory.mktemp("any") / "s.tar"
    members = []
    for i, (content, has_image) in enumerate(contents):
        members += [(f"k{i}.png", content)] * has_image
        members.append((f"k{i}.json", content[::-1]))
    write_tar(path, members)
    write_index(path)
    reader = ShardReader(path)
    for i, (content, has_image) in enumerate(contents):
        assert reader.read(i) == (content[::-1], content if has_image else None)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("/a.json", b"{}")], "points outside its folder"),
        ([("../a.json", b"{}")], "points outside its folder"),
        ([("x/../a.json", b"{}")], "points outside its folder"),
        ([("a.json", b"{}"), ("b.json", b"{}"), ("a.webp", b"")], "'a': the key appears twice"),
        ([("a.json", b"{}"), ("a.json", b"{}")], "'a': two json members"),
        ([("a.webp", b""), ("a.png", b""), ("a.json", b"{}")], "'a': two image members"),
        ([("a.webp", b"x")], r"'a': no \.json member"),
        ([("a.txt", b"x"), ("a.json", b"{}")], "unknown kind of member"),
        ([("k" * 49 + ".json", b"{}")], "a key longer than 48 bytes"),
        ([], "has no samples"),
    ],
)
def test_unsafe_members_are_rejected(tmp_path, members, message):
    path = tmp_path / "bad.tar"
    write_tar(path, members)
    with pytest.raises(DataError, match=message) as raised:
        build_index(path)
    assert "bad.tar" in str(raised.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_links_and_folders_are_rejected(tmp_path, kind):
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a.json")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info, io.BytesIO())
    with pytest.raises(DataError, match="a link, folder or special member"):
        build_index(path)


def test_every_truncation_is_detected(tar):
    content = tar.read_bytes()
    end = 512 * (2 * len(MEMBERS))
    for size in range(0, end + 1, 256):
        tar.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"not a complete tar|has no samples"):
            build_index(tar)


def test_garbage_after_a_member_is_detected(tar):
    content = bytearray(tar.read_bytes())
    content[1024:1536] = b"\xff" * 512
    tar.write_bytes(content)
    with pytest.raises(DataError, match="not a complete tar"):
        build_index(tar)


def test_a_missing_or_damaged_index_is_reported(tar):
    with pytest.raises(DataError, match=r"has no index s-000000\.index\.npy"):
        read_index(tar)
    index_path(tar).write_bytes(b"garbage")
    with pytest.raises(DataError, match="is damaged"):
        read_index(tar)
    np.save(index_path(tar), np.zeros(3))
    with pytest.raises(DataError, match="array of dtype float64, not an index"):
        read_index(tar)
    np.save(index_path(tar), np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="is damaged"):
        read_index(tar)


def test_a_tar_truncated_after_indexing_is_reported(tar):
    write_index(tar)
    tar.write_bytes(tar.read_bytes()[:1100])
    with pytest.raises(StorageError, match=r"s-000000\.tar, sample 'b': expected 11 bytes at"):
        ShardReader(tar).read(1)


def test_a_missing_tar_is_reported(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        build_index(tmp_path / "none.tar")


def test_a_writer_with_known_offsets_saves_the_same_index(tmp_path):
    samples = [
        ShardSample(
            key=f"a/k-{n}", content={"x": "\u00f1" * n}, image=b"\x89PNG" * n if n % 3 else None
        )
        for n in range(40)
    ]
    write_shard(tmp_path, "s-000000.tar", samples)
    path = tmp_path / "s-000000.tar"
    assert np.array_equal(read_index(path).rows, build_index(path))
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert len(names) == 40 + 26
    with pytest.raises(DataError, match="appears twice"):
        write_shard(tmp_path, "t.tar", [samples[0], samples[0]])
    for key in ("a.b", "/a", "../a", "k" * 90):
        with pytest.raises((DataError, ValueError)):
            write_shard(
                tmp_path, "t.tar", [ShardSample(key=key * (2 if key[0] == "k" else 1), content={})]
            )
    assert not (tmp_path / "t.tar").exists()
    with pytest.raises(DataError, match="no samples"):
        write_known_index(path, {})

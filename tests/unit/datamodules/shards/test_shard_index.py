"""The compact index: round trips, size, and detection of damage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from datamodules.shards.index import (
    INDEX_DTYPE,
    NO_IMAGE,
    ROW_DTYPE,
    IndexHeader,
    ShardIndex,
    compact_index,
)

HEADER = IndexHeader(member="txt", sha256="ab" * 32, num_bytes=10240)
BLOCKS = st.integers(min_value=0, max_value=2**32 - 1)
SIDES = st.integers(min_value=0, max_value=2**16 - 1)
ROWS = st.tuples(BLOCKS, BLOCKS, BLOCKS, BLOCKS, SIDES, SIDES)


def small_index():
    rows = [(1, 5, 3, 700, 64, 48), (2**32 - 1, 6, 0, 0, 0, 0)]
    return compact_index(rows, ["a", "sakon/ñ"], HEADER)


def test_a_saved_index_round_trips(tmp_path):
    path = tmp_path / "s.index"
    path.write_bytes(small_index().to_bytes())
    index = ShardIndex.load(path)
    assert index.header == HEADER
    assert (len(index), index.member) == (2, "txt")
    assert [index.key(0), index.key(1), index.key(-1)] == ["a", "sakon/ñ", "sakon/ñ"]
    assert np.char.decode(index.keys(), "utf-8").tolist() == ["a", "sakon/ñ"]
    first, last = index.offsets(0), index.offsets(1)
    assert (first.record_offset, first.record_size) == (512, 5)
    assert (first.image_offset, first.image_size) == (3 * 512, 700)
    assert last.record_offset == (2**32 - 1) * 512
    assert last.image_offset == NO_IMAGE
    assert index.image_sizes().tolist() == [[64, 48], [0, 0]]
    assert index.to_bytes() == path.read_bytes()


@given(content=st.lists(st.tuples(ROWS, st.text(min_size=1, max_size=20)), max_size=20))
@settings(max_examples=40, deadline=None)
def test_any_index_round_trips(tmp_path_factory, content):
    content = [(row, key) for row, key in content if "\x00" not in key]
    content = [(row, key) for row, key in content if key.isprintable()]
    path = tmp_path_factory.mktemp("any") / "s.index"
    rows, keys = [row for row, _ in content], [key for _, key in content]
    path.write_bytes(compact_index(rows, keys, HEADER).to_bytes())
    index = ShardIndex.load(path)
    assert index.rows.tolist() == rows
    assert [index.key(i) for i in range(len(index))] == keys


def test_rows_of_the_embedded_data_read_the_same_way(tmp_path):
    rows = np.zeros(2, dtype=INDEX_DTYPE)
    rows[0], rows[1] = (512, 7, 1536, 9, b"k0"), (2560, 8, -1, 0, b"k1")
    np.save((tmp_path / "s.index").open("wb"), rows)
    index = ShardIndex.load(tmp_path / "s.index")
    assert not index.is_compact
    assert index.member == "json"
    assert [index.key(i) for i in range(2)] == ["k0", "k1"]
    place = index.offsets(0)
    assert (place.record_offset, place.image_offset, place.image_size) == (512, 1536, 9)
    assert index.offsets(1).image_offset == NO_IMAGE
    assert not index.image_sizes().any()


def test_three_million_samples_take_less_than_200_mb():
    # The keys of cc3m-wds and img2dataset have 9 characters, a UUID has 36.
    for key_bytes in (9, 36):
        assert (ROW_DTYPE.itemsize + 4 + key_bytes) * 3_000_000 <= 200e6


def test_every_truncation_is_detected(tmp_path):
    content, path = small_index().to_bytes(), tmp_path / "s.index"
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match="is damaged"):
            ShardIndex.load(path)


def test_other_arrays_are_rejected(tmp_path):
    path = tmp_path / "s.index"
    with pytest.raises(DataError, match="does not exist"):
        ShardIndex.load(path)
    whole = small_index()
    path.write_bytes(whole.to_bytes() + b"more")
    with pytest.raises(DataError, match="sizes of its sections are inconsistent"):
        ShardIndex.load(path)
    keys = (np.asarray([1, 8], np.uint32), np.zeros(9, np.uint8))
    path.write_bytes(ShardIndex(whole.rows, keys, HEADER).to_bytes())
    with pytest.raises(DataError, match="sizes of its sections are inconsistent"):
        ShardIndex.load(path)
    path.write_bytes(whole.to_bytes().replace(b'"member"', b'"mumber"'))
    with pytest.raises(DataError, match="is damaged"):
        ShardIndex.load(path)
    np.save(path.open("wb"), np.zeros(3))
    with pytest.raises(DataError, match="array of dtype float64, not an index"):
        ShardIndex.load(path)

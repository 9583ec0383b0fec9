"""Encoding of samples, and cached lengths."""

import dataclasses

import numpy as np
import pytest

from core.chat.format import PromptStyle
from core.errors import DataError
from datamodules.batches.encode import encode_sample
from datamodules.batches.lengths import chat_fingerprint, measure_lengths
from datamodules.shards.source import Source
from tests.support.doubles import make_captions, make_chat


@pytest.fixture(scope="module")
def chat():
    return make_chat()


def some_empty(i):
    return "" if i == 3 else f"izena {i}" + "a" * i


def test_a_sample_is_encoded_with_its_image_tokens(tmp_path, chat):
    sample = Source(make_captions(tmp_path, "a")).read(1)
    encoded = encode_sample(sample, chat, PromptStyle.PLAIN)
    assert encoded.num_tokens == 1 + chat.num_image_tokens + encoded.num_loss_tokens
    assert not encoded.loss_mask_T[0]


def test_errors_name_the_sample(tmp_path, chat):
    source = Source(make_captions(tmp_path, "a", text=some_empty))
    for style in PromptStyle:
        with pytest.raises(DataError, match=r"^a/a-00003: .*empty"):
            encode_sample(source.read(3), chat, style)


@pytest.mark.parametrize("style", list(PromptStyle))
def test_lengths_match_the_encoded_samples(tmp_path, chat, style):
    source = Source(make_captions(tmp_path, "a", text=some_empty))
    lengths = measure_lengths(source, chat, style, tmp_path / "cache")
    assert set(lengths.faults) == {3}
    assert "a-00003" in str(lengths.faults[3])
    assert lengths.num_tokens[3] == lengths.num_loss_tokens[3] == 0
    for i in set(range(len(source))) - {3}:
        encoded = encode_sample(source.read(i), chat, style)
        assert lengths.num_tokens[i] == encoded.num_tokens
        assert lengths.num_loss_tokens[i] == encoded.num_loss_tokens


def test_lengths_are_measured_once(tmp_path, chat, monkeypatch):
    source, cache = Source(make_captions(tmp_path, "a", text=some_empty)), tmp_path / "cache"
    first = measure_lengths(source, chat, PromptStyle.CHAT, cache)
    monkeypatch.setattr("datamodules.batches.lengths.encode_sample", None)
    second = measure_lengths(source, chat, PromptStyle.CHAT, cache)
    assert np.array_equal(first.num_tokens, second.num_tokens)
    assert [str(e) for e in first.faults.values()] == [str(e) for e in second.faults.values()]
    assert len(list(cache.glob("*.npy"))) == len(source.manifest.shards)


def test_lengths_of_a_large_source_are_mapped_from_one_file(tmp_path, chat, monkeypatch):
    source, cache = Source(make_captions(tmp_path, "a", text=some_empty)), tmp_path / "cache"
    loaded = measure_lengths(source, chat, PromptStyle.CHAT, cache)
    monkeypatch.setattr("datamodules.batches.lengths._MAX_LOADED_SAMPLES", 1)
    measure_lengths(source, chat, PromptStyle.CHAT, cache)
    for path in cache.glob("*.lengths.npy"):
        path.unlink()
    mapped = measure_lengths(source, chat, PromptStyle.CHAT, cache)
    assert isinstance(mapped.num_tokens.base, np.memmap)
    assert np.array_equal(mapped.num_tokens, loaded.num_tokens)
    assert np.array_equal(mapped.num_loss_tokens, loaded.num_loss_tokens)
    assert mapped.longest == loaded.longest
    assert {i: str(e) for i, e in mapped.faults.items()} == {
        i: str(e) for i, e in loaded.faults.items()
    }
    (merged,) = cache.glob("*.merged.npy")
    merged.write_bytes(merged.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"merged.npy are damaged; delete them"):
        measure_lengths(source, chat, PromptStyle.CHAT, cache)


def test_samples_longer_than_a_row_have_no_tokens(tmp_path, chat):
    source = Source(make_captions(tmp_path, "a", text=some_empty))
    lengths = measure_lengths(source, chat, PromptStyle.CHAT, tmp_path / "cache")
    limit = int(np.sort(lengths.num_tokens)[-3])
    limited = dataclasses.replace(lengths, row_tokens=limit)
    longer = np.flatnonzero(lengths.num_tokens > limit)
    assert limited.count_longer() == longer.size > 0
    everything = slice(None)
    assert not limited.tokens_of(longer).any()
    assert not limited.loss_tokens_of(longer).any()
    kept = lengths.num_tokens <= limit
    assert np.array_equal(limited.tokens_of(everything)[kept], lengths.num_tokens[kept])
    assert f"longer than row_tokens={limit}" in str(limited.fault_of(source, int(longer[0])))
    assert limited.fault_of(source, 3) is lengths.faults[3]
    assert lengths.count_longer() == 0, "no limit"


def test_fingerprint_depends_on_style_and_visual_tokens(chat):
    addresses = {
        chat_fingerprint(chat, PromptStyle.CHAT),
        chat_fingerprint(chat, PromptStyle.PLAIN),
        chat_fingerprint(make_chat(num_image_tokens=4), PromptStyle.CHAT),
    }
    assert len(addresses) == 3
    assert chat_fingerprint(make_chat(), PromptStyle.CHAT) in addresses


def test_errors_name_the_damaged_cache_file(tmp_path, chat):
    source, cache = Source(make_captions(tmp_path, "a")), tmp_path / "cache"
    measure_lengths(source, chat, PromptStyle.CHAT, cache)
    (path,) = cache.glob(f"{source.manifest.shards[0].sha256[:12]}-*.npy")
    expected = source.manifest.shards[0].num_samples
    np.save(path, np.ones((2, 3)))
    with pytest.raises(
        DataError, match=rf"have shape \(2, 3\), expected \(2, {expected}\); delete"
    ):
        measure_lengths(source, chat, PromptStyle.CHAT, cache)
    path.write_bytes(b"garbage")
    with pytest.raises(DataError, match=r"are damaged"):
        measure_lengths(source, chat, PromptStyle.CHAT, cache)

"""StepDataset: the same global batches with any number of ranks and workers."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from core.chat.format import PromptStyle
from core.errors import ConfigError
from datamodules.batches.feature_cache import build_feature_cache
from datamodules.batches.lengths import measure_lengths
from datamodules.batches.shared_memory import estimate_step_bytes
from datamodules.batches.step_dataset import StepData, StepDataset
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture.stream import MixtureStream
from datamodules.shards.reader import ShardReader
from tests.support.doubles import (
    caption_record,
    fake_transform,
    make_chat,
    make_parallel,
    make_texts,
    write_shard,
    write_source,
)

NUM_STEPS = 6
SAMPLES_PER_STEP = 10


def make_data(folder, chat, paths, **changes):
    components = {
        "cap": ComponentConfig(
            base=paths["en"], target=paths["eu"], target_share=0.4, samples_per_step=6.5
        ),
        "text": ComponentConfig(base=paths["text"], samples_per_step=3.5),
    }
    stream = MixtureStream(MixtureConfig(components=components, seed=1))
    sources = [source for part in stream.components for source in part.used_sources()]
    lengths = {s.name: measure_lengths(s, chat, PromptStyle.CHAT, folder) for s in sources}
    data = StepData(
        stream=stream,
        lengths=lengths,
        chat=chat,
        prompt_style=PromptStyle.CHAT,
        micro_batch_tokens=128,
        row_tokens=64,
        features=None,
        transform=fake_transform,
    )
    return dataclasses.replace(data, **changes)


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    base, target = make_parallel(folder, "cap", shard_sizes=(5, 3, 7))
    return {"en": str(base), "eu": str(target), "text": str(make_texts(folder, "text"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory, paths):
    return make_data(tmp_path_factory.mktemp("lengths"), make_chat(), paths)


def steps(data, *, workers=0, **kwargs):
    dataset = StepDataset(data, **{"num_steps": NUM_STEPS, **kwargs})
    return list(DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=same))


def same(item):
    return item


def refs(step_batch):
    return [ref for micro_batch in step_batch.micro_batches for ref in micro_batch.samples]


def equal(a, b):
    """Return whether two steps are bitwise identical."""
    for one, two in zip(a.micro_batches, b.micro_batches, strict=True):
        for field in ("input_ids_BT", "labels_BT", "position_ids_BT", "document_ids_BT"):
            if not torch.equal(getattr(one, field), getattr(two, field)):
                return False
        if one.samples != two.samples:
            return False
    return a.step == b.step


@pytest.fixture(scope="module")
def reference(data):
    """Source and key by position for each step, from one rank without workers."""
    return [{r.position: (r.source, r.key) for r in refs(step)} for step in steps(data)]


def test_reference_has_every_position_once(reference):
    assert len(reference) == NUM_STEPS
    for step, found in enumerate(reference):
        first = step * SAMPLES_PER_STEP
        assert sorted(found) == list(range(first, first + SAMPLES_PER_STEP))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_topology_gives_the_same_global_batches(data, reference, world_size, workers):
    ranks = [
        steps(data, rank=rank, world_size=world_size, workers=workers) for rank in range(world_size)
    ]
    for step, parts in enumerate(zip(*ranks, strict=True)):
        assert {part.step for part in parts} == {step}
        assert len({len(part.micro_batches) for part in parts}) == 1
        found = [ref for part in parts for ref in refs(part)]
        assert len(found) == SAMPLES_PER_STEP
        assert {ref.position: (ref.source, ref.key) for ref in found} == reference[step]


@pytest.mark.slow
def test_starting_anywhere_gives_the_suffix(data):
    whole = steps(data)
    for start in (1, 4, NUM_STEPS):
        part = steps(data, start_step=start, workers=2)
        assert len(part) == NUM_STEPS - start
        assert all(equal(a, b) for a, b in zip(part, whole[start:], strict=True))


def test_batches_have_the_right_images(data):
    for micro_batch in steps(data)[0].micro_batches:
        keys = [ref.key for ref in micro_batch.samples if ref.source.startswith("cap")]
        expected = [fake_transform(f"image cap {int(key.split('-')[1])}".encode()) for key in keys]
        assert micro_batch.features_NPE is None
        assert micro_batch.num_images == len(keys)
        if keys:
            assert torch.equal(micro_batch.pixels_NCHW, torch.stack(expected))
        placeholders = int((micro_batch.input_ids_BT == data.chat.image_token_id).sum())
        assert placeholders == len(keys) * data.chat.num_image_tokens


def test_micro_batches_fit_and_loss_tokens_add_up(data):
    for step in steps(data):
        for micro_batch in step.micro_batches:
            assert micro_batch.input_ids_BT.numel() <= data.micro_batch_tokens
        labels = sum(int((mb.labels_BT >= 0).sum()) for mb in step.micro_batches)
        assert labels == step.num_loss_tokens


def test_rank_without_samples_still_takes_part(data):
    world_size = SAMPLES_PER_STEP + 3
    parts = [steps(data, num_steps=1, rank=r, world_size=world_size)[0] for r in range(world_size)]
    assert sum(not refs(part) for part in parts) == 3
    assert all(part.micro_batches[0].input_ids_BT.shape[0] == 1 for part in parts)


def test_too_long_samples_are_never_truncated(data):
    short = dataclasses.replace(data, row_tokens=20)
    with pytest.raises(ConfigError, match="longer than row_tokens=20"):
        StepDataset(short, num_steps=1).step(0)


@pytest.mark.parametrize("world_size", [1, 3])
def test_the_estimated_step_is_about_as_large_as_the_real_one(data, world_size):
    dataset = StepDataset(data, num_steps=2, world_size=world_size)
    tensors = [
        tensor
        for micro_batch in dataset.step(1).micro_batches
        for tensor in micro_batch.tensors().values()
    ]
    real = sum(tensor.nbytes for tensor in tensors)
    assert 0.7 * real <= estimate_step_bytes(dataset, 1) <= 1.5 * real


# --- features ---


def with_features(data, tmp_path, noise=0.0):
    source = data.stream.components[0].base
    images = (source.read(i).image for i in range(len(source)))

    def tower(images):
        return np.stack([np.full((3, 2), float(sum(i) % 251), np.float32) for i in images])

    cache = build_feature_cache(tmp_path, "tower", images, tower)
    return dataclasses.replace(data, features=cache, transform=None, feature_noise_std=noise)


def features_by_position(step_batches):
    found = {}
    for micro_batch in (mb for step in step_batches for mb in step.micro_batches):
        with_image = [ref for ref in micro_batch.samples if ref.source.startswith("cap")]
        for n, ref in enumerate(with_image):
            found[ref.position] = micro_batch.features_NPE[n]
    return found


def test_features_come_from_the_cache(data, tmp_path):
    cached, decoded = with_features(data, tmp_path), steps(data)
    for a, b in zip(steps(cached), decoded, strict=True):
        assert equal(a, b)
        for one, two in zip(a.micro_batches, b.micro_batches, strict=True):
            assert one.pixels_NCHW is None
            if one.num_images:
                assert torch.equal(one.features_NPE[:, 0, 0], two.pixels_NCHW[:, 0, 0, 0].float())


def test_feature_noise_is_a_function_of_the_position(data, tmp_path):
    clean = features_by_position(steps(with_features(data, tmp_path)))
    noisy_data = with_features(data, tmp_path, noise=0.5)
    noisy = features_by_position(steps(noisy_data))
    other = {}
    for rank in range(2):
        other |= features_by_position(steps(noisy_data, rank=rank, world_size=2, workers=1))
    assert clean.keys() == noisy.keys() == other.keys()
    assert all(torch.equal(noisy[p], other[p]) for p in noisy)
    noise = torch.stack([noisy[p] - clean[p] for p in noisy])
    assert 0.4 < float(noise.std()) < 0.6
    assert abs(float(noise.mean())) < 0.1


# --- broken samples ---


def broken_data(tmp_path):
    samples = [
        (
            f"k{i}",
            caption_record("" if i == 2 else f"izena {i}"),
            b"broken" if i == 5 else f"image {i}".encode(),
        )
        for i in range(10)
    ]
    return caption_data(tmp_path, samples)


def caption_data(tmp_path, *shards):
    """Return the data of a source of ten samples."""
    entries = [write_shard(tmp_path / f"b-{n}.tar", samples) for n, samples in enumerate(shards)]
    path = write_source(tmp_path, "b", entries)
    components = {"b": ComponentConfig(base=str(path), samples_per_step=10)}
    stream = MixtureStream(MixtureConfig(components=components))
    chat, source = make_chat(), stream.components[0].base
    return StepData(
        stream=stream,
        lengths={"b": measure_lengths(source, chat, PromptStyle.CHAT, tmp_path)},
        chat=chat,
        prompt_style=PromptStyle.CHAT,
        micro_batch_tokens=64,
        row_tokens=64,
        features=None,
        transform=fake_transform,
    )


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_bad_samples_are_skipped_and_reported_once(tmp_path, world_size):
    data = broken_data(tmp_path)
    located = data.stream.locate(np.arange(10)).sample
    parts = [steps(data, num_steps=1, rank=r, world_size=world_size)[0] for r in range(world_size)]
    bad = {b.key: b for part in parts for b in part.bad_samples}
    assert sum(len(part.bad_samples) for part in parts) == 2
    assert set(bad) == {"k2", "k5"}
    assert "empty answer" in bad["k2"].reason
    assert bad["k5"].reason == f"shard {tmp_path}/b-0.tar, sample 'k5': image can't be decoded"
    found = {ref.position: ref.key for part in parts for ref in refs(part)}
    assert found == {p: f"k{s}" for p, s in enumerate(located) if s not in (2, 5)}


def test_samples_of_one_key_in_two_shards_are_told_apart(tmp_path):
    """Keys are unique in a shard only, so numbered files of several folders may share them."""
    shards = [
        [
            (f"k{i}", caption_record(f"{shard} {i}"), b"%s %d" % (shard.encode(), i))
            for i in range(5)
        ]
        for shard in ("one", "two")
    ]
    shards[1][4] = ("k4", caption_record("bi"), b"broken")
    data = caption_data(tmp_path, *shards)
    (step,) = steps(data, num_steps=1)
    sample_at = data.stream.locate(np.arange(10)).sample
    images = {}
    for micro_batch in step.micro_batches:
        for ref, pixels_CHW in zip(micro_batch.samples, micro_batch.pixels_NCHW, strict=True):
            assert ref.key == f"k{sample_at[ref.position] % 5}"
            images[int(sample_at[ref.position])] = pixels_CHW
    expected = [
        fake_transform(image) for samples in shards for *_, image in samples if image != b"broken"
    ]
    assert sorted(images) == list(range(9))
    assert all(torch.equal(images[i], expected[i]) for i in range(9))
    (bad,) = step.bad_samples
    assert (sample_at[bad.position], bad.key) == (9, "k4")
    assert f"shard {tmp_path}/b-1.tar, sample 'k4'" in bad.reason


def test_io_error_is_not_a_bad_sample(data, monkeypatch):
    def fail(self, *args):
        raise OSError("stale file handle")

    monkeypatch.setattr("core.retry.time.sleep", lambda _: None)
    monkeypatch.setattr(ShardReader, "_pread", fail)
    with pytest.raises(OSError, match="stale file handle"):
        StepDataset(data, num_steps=1).step(0)


def test_stale_lengths_are_detected(data):
    lengths = {
        name: dataclasses.replace(value, num_tokens=value.num_tokens - 1)
        for name, value in data.lengths.items()
    }
    with pytest.raises(RuntimeError, match="delete the cached lengths"):
        StepDataset(dataclasses.replace(data, lengths=lengths), num_steps=1).step(0)

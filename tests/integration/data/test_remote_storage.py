"""Real servers on loopback: remote shards train like local ones despite network faults."""

import contextlib
import io
import json
import multiprocessing
import os
import shutil
import signal
import time

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from core.chat.format import PromptStyle
from core.io.files import sha256_file
from data_prep.index.__main__ import main as index_main
from datamodules.batches.lengths import measure_lengths
from datamodules.batches.step_dataset import StepData, StepDataset
from datamodules.mixture.config import ComponentConfig, MixtureConfig
from datamodules.mixture.stream import MixtureStream
from datamodules.shards.manifest import load_manifest, open_shard, verify
from datamodules.shards.source import Source, iterate_images
from datamodules.storage.cache import ShardCache
from datamodules.storage.download import CacheConfig, RemoteFile
from datamodules.storage.remote import RetryConfig, StorageError
from tests.support.doubles import caption_record, fake_transform, make_chat, write_tar
from tests.support.servers.http_store import fetch_all, serve

SHARD_SIZES = (5, 3, 7, 4)
NUM_STEPS = 5


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """Separate cache for every test, and no delay between retries."""
    monkeypatch.setenv("IRUDIMEN_SHARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IRUDIMEN_SHARD_CACHE_GB", "0.1")
    monkeypatch.setattr(RetryConfig, "delays_s", lambda config: [0.0] * (config.attempts - 1))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    for number, size in enumerate(SHARD_SIZES):
        members = []
        for i in range(100 * number, 100 * number + size):
            buffer = io.BytesIO()
            Image.new("RGB", (8 + i % 5, 8), (i % 256, number, 9)).save(buffer, "PNG")
            captions = {tag: caption_record(f"{tag} {i}") for tag in ("en", "eu")}
            members.append((f"{i:06d}.png", buffer.getvalue()))
            members.append((f"{i:06d}.json", json.dumps({"caption": captions}).encode()))
        write_tar(folder / f"s-{number}.tar", members)
    return folder


@pytest.fixture
def store(shards, tmp_path):
    folder = tmp_path / "served"
    shutil.copytree(shards, folder)
    with serve(folder) as server:
        yield server


def make_manifests(pattern, out, *, jobs=1):
    """Write sources in two languages over the shards; return their manifests."""
    for tag in ("en", "eu"):
        arguments = ["--name", f"cap_{tag}", "--language", tag, "--record", f"caption.{tag}"]
        arguments += ["--jobs", str(jobs)]
        assert index_main([pattern, *arguments, "--out", str(out)]) == 0
    return tuple(out / f"cap_{tag}.manifest.json" for tag in ("en", "eu"))


@pytest.fixture
def local(shards, tmp_path):
    return make_manifests(str(shards / "s-?.tar"), tmp_path / "local")


@pytest.fixture
def http(store, tmp_path):
    return make_manifests(f"{store.url}/s-{{0..3}}.tar", tmp_path / "remote", jobs=2)


def step_data(manifests, folder):
    chat = make_chat()
    component = ComponentConfig(
        base=str(manifests[0]), target=str(manifests[1]), target_share=0.4, samples_per_step=6
    )
    stream = MixtureStream(MixtureConfig(components={"cap": component}), block_shards=2)
    sources = stream.components[0].used_sources()
    return StepData(
        stream=stream,
        lengths={s.name: measure_lengths(s, chat, PromptStyle.CHAT, folder) for s in sources},
        chat=chat,
        prompt_style=PromptStyle.CHAT,
        micro_batch_tokens=128,
        row_tokens=64,
        features=None,
        transform=fake_transform,
    )


def steps(manifests, folder, *, workers=0):
    dataset = StepDataset(step_data(manifests, folder), num_steps=NUM_STEPS)
    return list(DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=same))


def same(item):
    return item


def assert_equal(ours, expected):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert not a.bad_samples
        assert len(a.micro_batches) == len(b.micro_batches)
        for x, y in zip(a.micro_batches, b.micro_batches, strict=True):
            assert x.samples == y.samples
            assert torch.equal(x.input_ids_BT, y.input_ids_BT)
            assert torch.equal(x.pixels_NCHW, y.pixels_NCHW)


def remote_files(folder, store, names=("s-0.tar",)):
    return [
        RemoteFile(
            url=f"{store.url}/{name}",
            sha256=sha256_file(folder / name),
            num_bytes=(folder / name).stat().st_size,
        )
        for name in names
    ]


@pytest.mark.slow
def test_urls_in_a_manifest_train_like_files(local, http, store, tmp_path):
    assert [load_manifest(path).fingerprint() for path in http] == [
        load_manifest(path).fingerprint() for path in local
    ]
    store.gets.clear()
    assert_equal(steps(http, tmp_path), steps(local, tmp_path))
    # Both languages, all epochs: each shard was fetched once.
    assert store.gets == {f"s-{i}.tar": 1 for i in range(4)}
    verify(http[0], deep=True)
    assert list(iterate_images(http[0])) == list(iterate_images(local[0]))


@pytest.mark.slow
def test_faults_on_the_way_change_nothing(local, http, store, tmp_path):
    expected = steps(local, tmp_path)
    store.once.update(
        {
            "s-0.tar": ["cut", "500", "cut"],
            "s-1.tar": ["500", "500", "500"],
            "s-2.tar": ["corrupt"],
            "s-3.tar": ["short", "cut"],
        }
    )
    assert_equal(steps(http, tmp_path, workers=2), expected)
    assert not any(store.once.values())


@pytest.mark.slow
def test_a_cache_smaller_than_the_data_gives_the_same(local, http, store, tmp_path, monkeypatch):
    sizes = [path.stat().st_size for path in store.folder.iterdir()]
    limit = 2 * max(sizes) + 10
    monkeypatch.setenv("IRUDIMEN_SHARD_CACHE_GB", str(limit / 1e9))
    store.gets.clear()
    assert_equal(steps(http, tmp_path, workers=2), steps(local, tmp_path))
    kept = [path.stat().st_size for path in (tmp_path / "cache").iterdir() if path.is_file()]
    assert sum(kept) <= limit
    assert max(store.gets.values()) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "500",
            r"reading bytes 0-\d+ of http://127.*/s-1\.tar: "
            "the server returned status 500, after 6 attempts",
        ),
        ("cut", r"of http://127.*/s-1\.tar: Client.*, after 6 attempts"),
        ("truncated", r"of http://127.*/s-1\.tar: ShortRead.*expected \d+ bytes, got \d+"),
        ("corrupt", r"http://127.*/s-1\.tar has sha256 \w+ after 3 downloads"),
    ],
)
def test_lasting_faults_end_the_run_and_leave_no_sample_out(
    http, store, tmp_path, cache_folder, fault, message
):
    data = step_data(http, tmp_path)
    shutil.rmtree(cache_folder)
    store.always["s-1.tar"] = fault
    dataset = StepDataset(data, num_steps=NUM_STEPS)
    with pytest.raises(StorageError, match=message) as raised:
        list(dataset)
    entry = load_manifest(http[0]).shards[1]
    assert f"the manifest lists {entry.num_bytes} bytes, sha256 {entry.sha256}" in str(raised.value)
    assert not [path for path in cache_folder.iterdir() if path.suffix == ".part"]
    # The store works again: the same dataset continues.
    store.always.clear()
    assert not any(step.bad_samples for step in dataset)


def test_servers_without_ranges_serve_too(http, store):
    store.always.update({f"s-{i}.tar": "no_range" for i in range(4)})
    source = Source(http[1], ShardCache(CacheConfig(chunk_bytes=1000)))
    assert source.read(6).turns[1].content == "eu 101"


def test_a_missing_file_is_not_retried(http, store):
    (store.folder / "s-2.tar").unlink()
    before = store.gets["s-2.tar"]
    with pytest.raises(StorageError, match=r"s-2\.tar: FileNotFoundError.*correct the URL"):
        Source(http[0]).read(9)
    assert store.gets["s-2.tar"] == before + 1


def test_indexes_may_be_remote_too(http, store, tmp_path):
    """A manifest is sufficient if the server also has the indexes."""
    shutil.copytree(http[0].parent / "cap_en.index", store.folder / "cap_en.index")
    raw = json.loads(http[0].read_text())
    for entry in raw["shards"]:
        entry["index"]["path"] = f"{store.url}/{entry['index']['path']}"
    alone = tmp_path / "alone" / "cap_en.manifest.json"
    alone.parent.mkdir()
    alone.write_text(json.dumps(raw))
    source = Source(alone)
    assert not any(name.endswith(".tar") for name in source.cache._fetched_at)
    assert [source.key(i) for i in (0, 5, 18)] == ["000000", "000100", "000303"]
    assert source.read(5).turns[1].content == "en 100"
    index = raw["shards"][0]["index"]["path"].rpartition("/")[2]
    path = next(path for path in store.folder.rglob(index))
    path.write_bytes(path.read_bytes()[:-1] + b"9")
    with pytest.raises(StorageError, match=r"index has sha256 \w+ after 3 downloads"):
        Source(alone, ShardCache(CacheConfig(folder=str(tmp_path / "other"))))


def test_shards_are_fetched_ahead_of_time(http, store):
    source = Source(http[0])
    store.gets.clear()
    source.prefetch([2, 0, 2])
    wait_for_shards(source.cache.folder, 2)
    assert store.gets == {"s-2.tar": 1, "s-0.tar": 1}
    source.read(0)
    assert store.gets["s-0.tar"] == 1
    assert source.shards_of(torch.tensor([0, 5, 18]).numpy()).tolist() == [0, 1, 3]


@pytest.mark.slow
def test_processes_share_one_download(store, cache_folder):
    context = multiprocessing.get_context("spawn")
    names = [f"s-{i}.tar" for i in range(4)]
    files, started = remote_files(store.folder, store, names), context.Barrier(3)
    orders = (files, files[::-1], files)
    processes = [
        context.Process(target=fetch_all, args=(str(cache_folder), order, started))
        for order in orders
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert store.gets == dict.fromkeys(names, 1)


def test_a_killed_download_does_not_block_others(store, cache_folder):
    context = multiprocessing.get_context("spawn")
    (file,), started = remote_files(store.folder, store), context.Barrier(1)
    store.once["s-0.tar"] = ["slow"]
    process = context.Process(target=fetch_all, args=(str(cache_folder), [file], started))
    process.start()
    deadline = time.monotonic() + 60
    while not store.gets["s-0.tar"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    cache = ShardCache()
    with cache.use(file) as opened:
        assert opened.read() == (store.folder / "s-0.tar").read_bytes()
    assert not list(cache_folder.glob("*.part"))


@contextlib.contextmanager
def s3_store(shards, monkeypatch):
    """An S3-compatible server with the shards in a bucket."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    boto3 = pytest.importorskip("boto3")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="data")
        for path in sorted(shards.iterdir()):
            client.upload_file(str(path), "data", f"cap/{path.name}")
        yield client
    finally:
        server.stop()


@pytest.mark.slow
def test_s3(shards, local, tmp_path, monkeypatch, cache_folder):
    with s3_store(shards, monkeypatch) as client:
        manifests = make_manifests("s3://data/cap/*.tar", tmp_path / "s3", jobs=2)
        paths = [entry.path for entry in load_manifest(manifests[0]).shards]
        assert paths == [f"s3://data/cap/s-{i}.tar" for i in range(4)]
        assert_equal(steps(manifests, tmp_path, workers=2), steps(local, tmp_path))
        client.delete_object(Bucket="data", Key="cap/s-1.tar")
        shutil.rmtree(cache_folder)
        entry = load_manifest(manifests[0]).shards[1]
        with pytest.raises(StorageError, match=r"s3://data/cap/s-1\.tar: FileNotFoundError"):
            open_shard(manifests[0], entry).read(0)
        body = (shards / "s-2.tar").read_bytes()
        client.put_object(Bucket="data", Key="cap/s-2.tar", Body=body[:-1] + b"x")
        entry = load_manifest(manifests[0]).shards[2]
        with pytest.raises(StorageError, match=r"s3://data/cap/s-2\.tar has sha256 "):
            open_shard(manifests[0], entry).read(0)


def wait_for_shards(folder, number):
    deadline = time.monotonic() + 60
    while len(list(folder.glob("?" * 64))) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("num_steps", "number"), [(1, 2), (NUM_STEPS, 4)])
def test_the_stream_fetches_this_block_and_the_next(http, store, tmp_path, num_steps, number):
    """The second block of two shards is fetched before it is read."""
    data = step_data(http, tmp_path)
    cache = data.stream.components[0].base.cache.folder
    for path in cache.glob("?" * 64):
        path.unlink()
    store.gets.clear()
    first = next(iter(StepDataset(data, num_steps=num_steps)))
    assert first.step == 0
    wait_for_shards(cache, number)
    time.sleep(0.1)
    assert list(store.gets.values()) == [1] * number

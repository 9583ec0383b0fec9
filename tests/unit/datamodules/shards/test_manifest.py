"""Manifests: round trips, validation, and verification against damaged shards."""

import json

import pytest

from core.errors import DataError
from datamodules.shards.manifest import (
    load_manifest,
    open_shard,
    remote_file,
    save_manifest,
    shard_path,
    verify,
)
from datamodules.shards.reader import index_path, write_index
from tests.support.doubles import make_captions, write_tar


def edit(path, **changes):
    raw = json.loads(path.read_text())
    raw.update(changes)
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))


def test_round_trip_and_deep_verify(tmp_path):
    path = make_captions(tmp_path, "a", shard_sizes=(3, 2))
    manifest = verify(path, deep=True)
    assert manifest.num_samples == 5
    copy = tmp_path / "copy.manifest.json"
    save_manifest(copy, manifest)
    assert load_manifest(copy) == manifest
    assert load_manifest(copy).fingerprint() == manifest.fingerprint()


def test_fingerprint_depends_on_content_and_not_on_descriptions(tmp_path):
    path = make_captions(tmp_path, "a")
    before = load_manifest(path).fingerprint()
    edit(path, licence="other", statistics={"x": 1})
    assert load_manifest(path).fingerprint() == before
    edit(path, record="caption.eu")
    assert load_manifest(path).fingerprint() != before
    edit(path, record="", num_rounds=2)
    manifest = load_manifest(path)
    assert manifest.fingerprint() != before
    assert manifest.num_rounds == 2
    save_manifest(path, manifest)
    assert load_manifest(path) == manifest


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, expected 1"),
        ({"format": True}, "has format True, expected 1"),
        ({"language": "en, eu"}, "language 'en, eu', expected different codes"),
        ({"language": "eu,eu"}, "expected different codes"),
        ({"name": None}, "field 'name' is missing, expected str"),
        ({"name": "../../x"}, r"name '\.\./\.\./x': use up to 100 letters"),
        ({"language": "en,"}, "language 'en,', expected different codes"),
        (
            {"shards": [{"path": "a\0", "sha256": "", "num_bytes": 1, "num_samples": 1}]},
            "has a NUL character",
        ),
        ({"num_rounds": 3}, "has num_rounds=3, which does not divide its 8 samples"),
        ({"language": 3}, "field 'language' is 3, expected str"),
        ({"modality": "images"}, "unknown modality 'images'"),
        ({"shards": []}, "lists no shards"),
        ({"shards": ["x"]}, "a shard entry is 'x'"),
        ({"shards": [{"path": "a.tar"}]}, "field 'sha256' is missing"),
        (
            {"shards": [{"path": "a", "sha256": "", "num_bytes": 1, "num_samples": 0}]},
            "num_samples=0",
        ),
    ],
)
def test_errors_name_the_invalid_field(tmp_path, changes, message):
    path = make_captions(tmp_path, "a")
    edit(path, **changes)
    with pytest.raises(DataError, match=message):
        verify(path)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(DataError, match=r"x\.manifest\.json does not exist"):
        load_manifest(tmp_path / "x.manifest.json")
    (tmp_path / "y").write_text("{")
    with pytest.raises(DataError, match=r"is not JSON"):
        load_manifest(tmp_path / "y")
    (tmp_path / "z").write_text("[]")
    with pytest.raises(DataError, match=r"has format 'list'"):
        load_manifest(tmp_path / "z")


def test_shards_and_keys_appear_once(tmp_path):
    """A shard that is listed twice would be used twice, a repeated key replaces the first."""
    path = make_captions(tmp_path, "a", shard_sizes=(2, 1))
    shards = json.loads(path.read_text())["shards"]
    edit(path, shards=[*shards, shards[0]])
    with pytest.raises(DataError, match=r"two shards have the path 'a-000000\.tar'; remove one"):
        load_manifest(path)
    edit(path, shards=[*shards, {**shards[0], "path": "copy.tar"}])
    with pytest.raises(DataError, match="two shards have the sha256"):
        load_manifest(path)
    edit(path, shards=shards)
    text = path.read_text()
    path.write_text(text.replace('"name": "a"', '"name": "a", "name": "b"'))
    with pytest.raises(DataError, match="the key 'name' appears twice"):
        load_manifest(path)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load_manifest(path).num_samples == 3


def test_verify_finds_damage(tmp_path):
    path = make_captions(tmp_path, "a", shard_sizes=(4,))
    shard = tmp_path / "a-000000.tar"
    content = shard.read_bytes()

    flipped = bytearray(content)
    flipped[520] ^= 1
    shard.write_bytes(flipped)
    verify(path)
    with pytest.raises(DataError, match=r"sha256"):
        verify(path, deep=True)

    shard.write_bytes(content[:-512])
    with pytest.raises(DataError, match=r"a-000000\.tar has \d+ bytes.*fetch or prepare"):
        verify(path)

    shard.unlink()
    with pytest.raises(DataError, match=r"a-000000\.tar of a\.manifest\.json is missing"):
        verify(path)


def test_verify_finds_a_wrong_index(tmp_path):
    path = make_captions(tmp_path, "a", shard_sizes=(4,))
    other = tmp_path / "other.tar"
    write_tar(other, [("k.json", b"{}")])
    write_index(other)
    index_path(tmp_path / "a-000000.tar").write_bytes(index_path(other).read_bytes())
    with pytest.raises(DataError, match=r"has 1 samples, a\.manifest\.json lists 4; rebuild"):
        verify(path)


def test_shards_stay_in_their_folder(tmp_path):
    path = make_captions(tmp_path, "a", shard_sizes=(1,))
    raw = json.loads(path.read_text())
    raw["shards"][0]["path"] = "../a-000000.tar"
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match="points outside"):
        verify(path)


def with_url(path, **changes):
    raw = json.loads(path.read_text())
    raw["shards"][0] |= {"path": "s3://bucket/a-000000.tar", **changes}
    path.write_text(json.dumps(raw))


INDEX = {"path": "a.index", "sha256": "0" * 64, "num_bytes": 3}


def test_shards_may_have_urls_and_separate_indexes(tmp_path):
    path = make_captions(tmp_path, "a", shard_sizes=(2,))
    before = load_manifest(path)
    assert "index" not in json.loads(path.read_text())["shards"][0]
    with_url(path, index=INDEX)
    manifest = load_manifest(path)
    entry = manifest.shards[0]
    assert remote_file(entry).url == "s3://bucket/a-000000.tar"
    assert remote_file(entry.index) is None
    assert open_shard(path, entry).name == "s3://bucket/a-000000.tar"
    with pytest.raises(DataError, match=r"s3://bucket/a-000000\.tar of a\.manifest.* is remote"):
        shard_path(path, entry)
    save_manifest(path, manifest)
    assert load_manifest(path) == manifest
    # A different index may list different samples of the same shard.
    assert manifest.fingerprint() != before.fingerprint()
    with pytest.raises(DataError, match=r"index .*a\.index does not exist"):
        verify(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            r"'s3://bucket/a-000000\.tar' is remote and has no 'index'; create .*data_prep\.index",
        ),
        ({"index": "a.index"}, "a shard's index is 'a.index', expected an object"),
        ({"index": {**INDEX, "sha256": 3}}, "field 'sha256' is 3, expected str"),
        ({"index": {"path": "a.index", "sha256": ""}}, "field 'num_bytes' is missing"),
    ],
)
def test_errors_name_the_invalid_remote_entry(tmp_path, changes, message):
    path = make_captions(tmp_path, "a", shard_sizes=(2,))
    with_url(path, **changes)
    with pytest.raises(DataError, match=message):
        load_manifest(path)


def test_a_file_url_is_read_in_place(tmp_path):
    path = make_captions(tmp_path / "shards", "a", shard_sizes=(2,))
    raw = json.loads(path.read_text())
    raw["shards"][0]["path"] = f"file://{tmp_path}/shards/a-000000.tar"
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / path.name
    moved.write_text(json.dumps(raw))
    assert verify(moved, deep=True).num_samples == 2


def test_an_index_outside_of_the_folder_is_rejected(tmp_path):
    path = make_captions(tmp_path, "a", shard_sizes=(2,))
    raw = json.loads(path.read_text())
    raw["shards"][0]["index"] = {**INDEX, "path": "../a.index"}
    path.write_text(json.dumps(raw))
    with pytest.raises(DataError, match="points outside"):
        verify(path)

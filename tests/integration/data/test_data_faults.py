"""Every fault in docs/reference/data-format.md is rejected, counted or fatal as documented.

The healthy world is run once; then one sample of it, or one shard, is damaged in each way.
"""

import gzip
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from core.io.files import sha256_file
from datamodules.shards.manifest import ShardEntry, verify
from datamodules.shards.reader import index_path, write_index
from datamodules.shards.source import Source
from datamodules.storage.remote import StorageError
from tests.support.doubles import write_source, write_tar
from tests.support.faulty_world import (
    COUNTED,
    FAULTY,
    FOUND,
    KNOWN,
    NUM_IMAGES,
    SHARD_SIZES,
    Consumed,
    consume,
    healthy,
    healthy_record,
    make_module,
    write_images,
    write_world,
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Consumed:
    """Samples of a world without faults."""
    folder = tmp_path_factory.mktemp("healthy")
    consumed = consume(make_module(folder, write_world(folder, {})))
    assert not consumed.bad
    return consumed


def without(reference: Consumed, keys: set[str]) -> dict[int, dict[int, tuple[str, str]]]:
    return {
        step: {position: ref for position, ref in batch.items() if ref[1] not in keys}
        for step, batch in reference.batches.items()
    }


def places_of(reference: Consumed, keys: set[str]) -> list[tuple[int, str, str]]:
    return sorted(
        (position, *ref)
        for batch in reference.batches.values()
        for position, ref in batch.items()
        if ref[1] in keys
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_broken_sample_is_counted_and_no_other_moves(
    reference: Consumed,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    world_size: int,
) -> None:
    fault, reason = COUNTED[name]
    module = make_module(tmp_path, write_world(tmp_path, {FAULTY: fault}))
    consumed = consume(module, world_size=world_size)
    faulty = {f"cap-{FAULTY:02d}"}
    assert consumed.batches == without(reference, faulty)
    found = sorted((bad.position, bad.source, bad.key) for bad in consumed.bad)
    assert found == places_of(reference, faulty), "told once by one rank, each time it was due"
    assert len(found) > 1
    for bad in consumed.bad:
        assert re.search(reason, bad.reason), bad.reason
        assert f"cap-{FAULTY:02d}" in bad.reason
        assert bad.reason in caplog.text
    assert module.accounts.bad_counts == {"cap": len(found)}


@pytest.mark.parametrize("name", KNOWN)
def test_past_the_budget_a_known_fault_is_fatal_before_the_first_step(
    tmp_path: Path, name: str
) -> None:
    fault, reason = KNOWN[name]
    manifests = write_world(tmp_path, {FAULTY: fault})
    just_enough, too_little = 1 / NUM_IMAGES, 0.99 / NUM_IMAGES
    make_module(tmp_path, manifests, max_bad_fraction=just_enough).setup()
    message = f"source 'cap': 1 of {NUM_IMAGES} samples are bad, .*: .*{reason}"
    with pytest.raises(DataError, match=message):
        make_module(tmp_path, manifests, max_bad_fraction=too_little).setup()


@pytest.mark.parametrize("name", FOUND)
def test_past_the_budget_a_fault_that_is_found_later_is_fatal(
    reference: Consumed, tmp_path: Path, name: str
) -> None:
    fault, reason = FOUND[name]
    manifests = write_world(tmp_path, {FAULTY: fault})
    # One in a thousand: the first fault is within the budget, the second is not.
    module = make_module(tmp_path, manifests, max_bad_fraction=0.001)
    message = rf"source 'cap': 2 of \d+ samples were bad, .*max_bad_fraction=0.001.*{reason}"
    with pytest.raises(DataError, match=message):
        consume(module)
    assert len(places_of(reference, {f"cap-{FAULTY:02d}"})) >= 2


def test_the_budget_is_per_source(tmp_path: Path) -> None:
    """Two faults in one source exceed the budget; one in each of two sources does not."""
    fault, _ = KNOWN["empty answer"]
    one_each = 1.5 / NUM_IMAGES
    entries = write_images(tmp_path, {FAULTY: fault})
    manifests = {name: write_source(tmp_path, name, entries) for name in ("cap", "text")}
    make_module(tmp_path, manifests, max_bad_fraction=one_each).setup()
    twice = write_world(tmp_path / "twice", {FAULTY: fault, FAULTY + 1: fault})
    with pytest.raises(DataError, match=f"'cap': 2 of {NUM_IMAGES}"):
        make_module(tmp_path, twice, max_bad_fraction=one_each).setup()


@pytest.mark.slow
@given(
    faults=st.dictionaries(
        st.integers(0, NUM_IMAGES - 1), st.sampled_from(sorted(COUNTED)), max_size=8
    ),
    world_size=st.integers(1, 4),
)
@settings(max_examples=15, deadline=None)
def test_any_faults_leave_the_others_where_they_were(
    reference: Consumed,
    tmp_path_factory: pytest.TempPathFactory,
    faults: dict[int, str],
    world_size: int,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    manifests = write_world(folder, {i: COUNTED[name][0] for i, name in faults.items()})
    module = make_module(folder, manifests, max_bad_fraction=0.9)
    consumed = consume(module, world_size=world_size)
    keys = {f"cap-{i:02d}" for i in faults}
    assert consumed.batches == without(reference, keys)
    found = sorted((bad.position, bad.source, bad.key) for bad in consumed.bad)
    assert found == places_of(reference, keys)


# --- faults that reject the whole shard when it is indexed ---


def special_member(kind: bytes, link: str = "") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("cap-00.json")
            info.type, info.linkname = kind, link
            tar.addfile(info)

    return write


def members(*names: str) -> Callable[[Path], None]:
    return lambda path: write_tar(path, [(name, healthy_record("cap-00")) for name in names])


def _gzip_tar(path: Path) -> None:
    members("cap-00.json")(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def _cut_tar(path: Path) -> None:
    write_tar(path, [m for i in range(3) for m in healthy(f"cap-{i:02d}")])
    path.write_bytes(path.read_bytes()[:1700])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "absolute name": (members("/etc/cap-00.json"), "points outside its folder"),
    "name with ..": (members("../cap-00.json"), "points outside its folder"),
    "name with .. inside": (members("a/../../cap-00.json"), "points outside its folder"),
    "symbolic link": (special_member(tarfile.SYMTYPE, "/etc/passwd"), "a link, folder or special"),
    "hard link": (special_member(tarfile.LNKTYPE, "other.json"), "a link, folder or special"),
    "device": (special_member(tarfile.CHRTYPE), "a link, folder or special"),
    "pipe": (special_member(tarfile.FIFOTYPE), "a link, folder or special"),
    "no JSON member": (members("cap-00.png"), r"'cap-00': no \.json member"),
    "gzip member": (members("cap-00.json.gz"), "unknown kind of member"),
    "zip member": (members("cap-00.zip"), "unknown kind of member"),
    "gzip around the tar": (_gzip_tar, "not a complete tar"),
    "cut tar": (_cut_tar, "not a complete tar"),
    "a key twice": (
        members("cap-00.json", "cap-01.json", "cap-00.png"),
        "'cap-00': the key appears twice",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_shard_that_is_unsafe_or_broken_gets_no_index(tmp_path: Path, name: str) -> None:
    write, reason = REFUSED[name]
    path = tmp_path / "cap-000000.tar"
    write(path)
    with pytest.raises(DataError, match=reason) as raised:
        write_index(path)
    assert path.name in str(raised.value)
    assert not index_path(path).exists()
    entry = ShardEntry(
        path=path.name, sha256=sha256_file(path), num_bytes=path.stat().st_size, num_samples=1
    )
    with pytest.raises(DataError, match=f"{path.name} has no index"):
        Source(write_source(tmp_path, "cap", [entry]))


# --- faults that are fatal when the source is opened ---


def _cut_shard(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-600])


def _remove_index(shard: Path) -> None:
    index_path(shard).unlink()


def _index_of_the_next(shard: Path) -> None:
    shutil.copy(index_path(shard.with_name("cap-000001.tar")), index_path(shard))


def _damage_index(shard: Path) -> None:
    index_path(shard).write_bytes(index_path(shard).read_bytes()[:100])


def _remove_shard(shard: Path) -> None:
    shard.unlink()


OPENED: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut after indexing": (_cut_shard, r"has \d+ bytes, cap\.manifest\.json lists"),
    "no index": (_remove_index, "has no index"),
    "index of another length": (_index_of_the_next, "has 9 samples, .* lists 15"),
    "damaged index": (_damage_index, "is damaged"),
    "no shard": (_remove_shard, "is missing"),
}


@pytest.mark.parametrize("name", OPENED)
def test_a_damaged_shard_is_fatal_before_the_first_step(tmp_path: Path, name: str) -> None:
    damage, reason = OPENED[name]
    manifests = write_world(tmp_path, {})
    damage(tmp_path / "cap-000000.tar")
    with pytest.raises(DataError, match=reason) as raised:
        make_module(tmp_path, manifests).setup()
    assert "cap-000000" in str(raised.value)


def test_a_shard_cut_while_it_is_read_ends_the_run(tmp_path: Path) -> None:
    """Samples that storage lost are never skipped."""
    module = make_module(tmp_path, write_world(tmp_path, {}), max_bad_fraction=0.01)
    module.setup()
    os.truncate(tmp_path / "cap-000000.tar", 3000)
    with pytest.raises(StorageError, match=r"cap-000000\.tar, .* it was truncated"):
        consume(module)


def _flip_byte(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)


def _index_of_another(shard: Path) -> None:
    """Return a consistent index of the same samples in another order."""
    other = shard.with_name("other.tar")
    keys = [f"cap-{i:02d}" for i in (1, 0, *range(2, SHARD_SIZES[0]))]
    write_tar(other, [member for key in keys for member in healthy(key)])
    write_index(other)
    shutil.copy(index_path(other), index_path(shard))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_flip_byte, "has sha256 .* damaged"),
        (_index_of_another, "index of .* does not describe it"),
    ],
)
def test_what_only_the_content_tells_is_found_by_the_deep_check(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    manifest = write_world(tmp_path, {})["cap"]
    verify(manifest, deep=True)
    damage(tmp_path / "cap-000000.tar")
    with pytest.raises(DataError, match=reason):
        verify(manifest, deep=True)

"""Readers of Qt resources and catalogues: intact files of every kind, and damaged ones."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from data_prep.photographs import qt_resources
from data_prep.photographs.qt_catalogue import Message, read_catalogue
from data_prep.photographs.qt_resources import read_resources
from tests.support.qt_files import MAGIC, make_catalogue, make_resources

FILES = {"pictures/a.webp": b"RIFF" + bytes(3000), "pictures/ñ.webp": b"", "texts/b.qml": b"x: 1"}
MESSAGES = [("Board", "Horse", "Zaldia"), ("", "Two\nlines", "Bi 🐴 lerro")]


@pytest.mark.parametrize("compression", ["", "zlib", "zstd"])
def test_files_of_a_resource_are_read(compression: str) -> None:
    found = read_resources(make_resources(FILES, compression=compression), "a.rcc")
    assert found == {f"/{path}": content for path, content in FILES.items()}


def test_messages_of_a_catalogue_are_read() -> None:
    found = read_catalogue(make_catalogue([*MESSAGES, ("Board", "Cow", "")]), "eu.qm")
    assert found == [
        Message(context=context, source=source, translation=translation)
        for context, source, translation in MESSAGES
    ]


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_file_that_expands_beyond_the_limit_is_an_error(
    compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qt_resources, "MAX_FILE_BYTES", 1 << 20)
    bomb = make_resources({"a/b": bytes(4 << 20)}, compression=compression)
    assert len(bomb) < 10_000
    with pytest.raises(DataError, match="'b' exceeds the limit"):
        read_resources(bomb, "bomb.rcc")


def test_a_folder_inside_itself_is_an_error() -> None:
    content = bytearray(make_resources({"a/b": b"c"}))
    content[20 + 14 + 10 : 20 + 14 + 14] = struct.pack(">I", 1)  # its first child is itself
    with pytest.raises(DataError, match="levels"):
        read_resources(bytes(content), "loop.rcc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it starts with b''"),
        (b"RIFF" + bytes(40), "it starts with b'RIFF'"),
        (b"qres" + struct.pack(">IIII", 9, 0, 0, 0), "format version 9"),
        (make_resources(FILES)[:120], "a.rcc is not an intact Qt resource"),
    ],
)
def test_a_damaged_resource_names_its_fault(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_resources(content, "a.rcc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it starts with b''"),
        (MAGIC + struct.pack(">BI", 0x69, 99), "99 bytes at 21 lie beyond its end"),
        (MAGIC + struct.pack(">BI", 0x42, 4) + b"abcd", "table of hashes has 4 bytes"),
        (make_catalogue(MESSAGES).replace(b"\x08\x00\x00\x00\x00", b"\x63\x00\x00\x00\x00"),
         "field 99"),
    ],
)  # fmt: skip
def test_a_damaged_catalogue_names_its_fault(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_catalogue(content, "eu.qm")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_damage_is_a_data_error(data: st.DataObject) -> None:
    """Changed or missing bytes give other texts or a `DataError`, never another exception."""
    compression = data.draw(st.sampled_from(["", "zlib", "zstd"]))
    for original, read in (
        (make_resources(FILES, compression=compression), read_resources),
        (make_catalogue(MESSAGES), read_catalogue),
    ):
        damaged = bytearray(original)
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        end = data.draw(st.integers(0, len(damaged)))
        with contextlib.suppress(DataError):
            read(bytes(damaged[: end or None]), "file")

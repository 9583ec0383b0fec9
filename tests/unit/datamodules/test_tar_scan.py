"""Scans of foreign tars: usable samples are indexed, others are counted, damage is detected."""

import io
import json
import tarfile

import pytest
from PIL import Image

from core.errors import DataError
from core.io.files import sha256_file
from datamodules.shards.records import RecordError, parse_record
from datamodules.shards.tar_scan import ScanRules, guess_record, scan_tar
from tests.support.doubles import caption_record, write_tar

TXT = ScanRules(record=".txt", has_image=True)


def image(width=4, height=3, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (width, height, 0)).save(buffer, kind)
    return buffer.getvalue()


def scan(tmp_path, members, rules=TXT):
    path = tmp_path / "s.tar"
    write_tar(path, members)
    with path.open("rb") as file:
        return scan_tar(file, "s.tar", rules)


def img2dataset(key, text, *, kind="jpg", size=(4, 3)):
    meta = json.dumps({"caption": text, "key": key, "status": "success"}).encode()
    encoded = image(*size, kind="JPEG" if kind == "jpg" else kind.upper())
    return [(f"{key}.{kind}", encoded), (f"{key}.json", meta), (f"{key}.txt", text.encode())]


def test_members_of_img2dataset_are_indexed(tmp_path):
    members = img2dataset("000000001", "katu bat", size=(40, 30))
    members += img2dataset("000000002", "txakur bat", kind="webp", size=(8, 9))
    result = scan(tmp_path, members)
    index, content = result.index, (tmp_path / "s.tar").read_bytes()
    assert [index.key(i) for i in range(2)] == ["000000001", "000000002"]
    assert index.image_sizes().tolist() == [[40, 30], [8, 9]]
    for row, first in enumerate((0, 3)):
        place = index.offsets(row)
        image, text = members[first][1], members[first + 2][1]
        assert content[place.record_offset :][: place.record_size] == text
        assert content[place.image_offset :][: place.image_size] == image
    assert (result.sha256, result.num_bytes) == (sha256_file(tmp_path / "s.tar"), len(content))
    assert index.header.sha256 == result.sha256
    assert not result.unusable
    assert result.ignored == {"json": 2}


def test_text_sources_ignore_images(tmp_path):
    members = [*img2dataset("a", "lehena"), ("b.json", b'{"caption": "bigarrena"}')]
    result = scan(tmp_path, members, ScanRules(record="caption", has_image=False))
    assert len(result.index) == 2
    assert not result.index.image_sizes().any()
    assert result.ignored == {"jpg": 1, "txt": 1}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.txt", b"x")], "no image"),
        ([("a.jpg", image())], "no .txt member"),
        ([("a.jpg", image()), ("a.txt", b"  \n")], "empty text"),
        ([("a.jpg", image()), ("a.txt", b"\xff\xfe")], "text is not UTF-8"),
        ([("a.jpg", image()), ("a.txt", b"an <image> here")], "text contains <image>"),
        ([("a.jpg", b"GIF89"), ("a.txt", b"x")], "the image can't be read"),
        ([("a.jpg", image()[:20]), ("a.txt", b"x")], "the image can't be read"),
        ([("a.jpg", image()), ("a.png", image()), ("a.txt", b"x")], "two images"),
        ([("a.jpg", image()), ("a.JPG", image()), ("a.txt", b"x")], "two .jpg members"),
        ([("/a.jpg", image())], "a name that leaves its folder"),
        ([("../a.jpg", image())], "a name that leaves its folder"),
        ([("README", b"x")], "a name without an extension"),
        ([("k" * 96 + "/" + "k" * 90 + "/" * 80 + "k.txt", b"x")], "a key over 255 bytes"),
    ],
)
def test_unusable_samples_are_counted_and_others_are_indexed(tmp_path, members, reason):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in [*img2dataset("y", "bai"), *members, *img2dataset("z", "bai")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with path.open("rb") as file:
        result = scan_tar(file, "s.tar", TXT)
    assert result.unusable == {reason: 1}
    assert result.examples[reason].startswith("s.tar: ")
    assert [result.index.key(i) for i in range(2)] == ["y", "z"]


def test_a_decompression_bomb_is_rejected_by_its_header(tmp_path):
    rules = ScanRules(record=".txt", has_image=True, max_pixels=100)
    members = [("a.png", image(11, 10)), ("a.txt", b"x"), *img2dataset("b", "bai", size=(10, 10))]
    result = scan(tmp_path, members, rules)
    assert result.unusable == {"an image over 100 pixels": 1}
    assert result.index.image_sizes().tolist() == [[10, 10]]


def test_repeated_keys_count_once(tmp_path):
    members = [*img2dataset("a", "bat"), *img2dataset("b", "bi"), *img2dataset("a", "hiru")]
    result = scan(tmp_path, members)
    assert result.unusable == {"the key appears twice": 1}
    assert result.index.offsets(0).record_size == len("bat")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_are_rejected_and_folders_are_skipped(tmp_path, kind):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("x.txt")
        link.type, link.linkname = kind, "/etc/passwd"
        tar.addfile(link)
        for name, content in img2dataset("./a", "bai"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with path.open("rb") as file:
        result = scan_tar(file, "s.tar", TXT)
    assert result.unusable == {"a link or special member": 1}
    assert result.index.key(0) == "./a"


class Trickle:
    """A stream that returns a few bytes at a time, as a network may."""

    def __init__(self, content, piece):
        self.file, self.piece = io.BytesIO(content), piece

    def read(self, size):
        return self.file.read(min(size, self.piece))


def test_a_slow_stream_gives_the_same_index(tmp_path):
    expected = scan(tmp_path, img2dataset("a", "bat") + img2dataset("b", "bi"))
    content = (tmp_path / "s.tar").read_bytes()
    result = scan_tar(Trickle(content, 100), "s.tar", TXT)
    assert result.index.to_bytes() == expected.index.to_bytes()


def test_truncation_and_garbage_are_detected(tmp_path):
    scan(tmp_path, img2dataset("a", "bat") + img2dataset("b", "bi"))
    content = (tmp_path / "s.tar").read_bytes()
    end = max(i for i in range(0, len(content), 512) if any(content[i : i + 512])) + 512
    for size in [*range(0, end, 256), end, end + 100]:
        with pytest.raises(DataError, match="not a complete tar"):
            scan_tar(io.BytesIO(content[:size]), "s.tar", TXT)
    for start in (content.index(b"a.json"), end, len(content) - 512):
        broken = content[:start] + b"\xff" * 512 + content[start + 512 :]
        with pytest.raises(DataError, match="not a complete tar"):
            scan_tar(io.BytesIO(broken), "s.tar", TXT)


@pytest.mark.parametrize(
    ("content", "record"),
    [
        ([("a.txt", b"bai"), ("a.json", json.dumps(caption_record("bai")).encode())], ""),
        ([("a.txt", b"bai"), ("a.json", b'{"caption": "ez"}')], ".txt"),
        ([("a.json", b'{"caption": "bai", "text": "ez"}')], "caption"),
        ([("a.cls", b"3"), ("a.json", b'{"text": "bai"}')], "text"),
    ],
)
def test_the_record_location_is_detected(tmp_path, content, record):
    path = tmp_path / "s.tar"
    write_tar(path, [("0.json", b"{"), *content])
    with path.open("rb") as file:
        assert guess_record(file, "s.tar", has_image=True) == record


def test_a_failed_detection_lists_the_members(tmp_path):
    path = tmp_path / "s.tar"
    write_tar(path, [("a.cls", b"3"), ("a.json", b"{}"), ("b.cls", b"4")])
    with path.open("rb") as file, pytest.raises(DataError, match=r"\.cls \(2\), \.json \(1\)"):
        guess_record(file, "s.tar", has_image=True)


def test_captions_become_turns():
    _, turns = parse_record(b" katu bat\n", ".txt", "here", has_image=True)
    assert [(t.role, t.content) for t in turns] == [("user", "<image>"), ("assistant", "katu bat")]
    raw, turns = parse_record(b'{"t": {"eu": "kaixo"}, "i": 1}', "t.eu", "here", has_image=False)
    assert [(turn.role, turn.content) for turn in turns] == [("text", "kaixo")]
    assert raw["i"] == 1
    with pytest.raises(RecordError, match="here: record 'n' is 3, expected an object") as raised:
        parse_record(b'{"n": 3}', "n", "here", has_image=False)
    assert raised.value.fault == "record 'n' is neither an object nor a caption"

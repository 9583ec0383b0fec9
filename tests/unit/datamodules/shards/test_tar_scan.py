"""Scans of foreign tars: usable samples are indexed, others are counted, damage is detected."""

import io
import json
import random
import tarfile
import time

import pytest
from PIL import Image

from core.errors import DataError
from core.io.files import sha256_file
from datamodules.shards.records import RecordError, parse_record
from datamodules.shards.tar_scan import ScanRules, guess_record, scan_tar
from tests.support.doubles import caption_record, write_tar

NUM_MUTANTS = 5_000
TXT = ScanRules(record=".txt", language="eu", has_image=True)


def image(width=4, height=3, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (width, height, 0)).save(buffer, kind)
    return buffer.getvalue()


def scan(tmp_path, members, rules=TXT):
    path = tmp_path / "s.tar"
    write_tar(path, members)
    with path.open("rb") as file:
        return scan_tar(file, "s.tar", rules)


def gnu_tar(members):
    """Return a tar with names of any length."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


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
    assert result.ignored == {".json": 2}


def test_text_sources_ignore_images(tmp_path):
    members = [*img2dataset("a", "lehena"), ("b.json", b'{"caption": "bigarrena"}')]
    result = scan(tmp_path, members, ScanRules(record="caption", language="eu", has_image=False))
    assert len(result.index) == 2
    assert not result.index.image_sizes().any()
    assert result.ignored == {".jpg": 1, ".txt": 1}


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
        ([("/a.jpg", image())], "a name that points outside its folder"),
        ([("../a.jpg", image())], "a name that points outside its folder"),
        ([("k" * 96 + "/" + "k" * 90 + "/" * 80 + "k.txt", b"x")], "a key longer than 255 bytes"),
    ],
)
def test_unusable_samples_are_counted_and_others_are_indexed(members, reason):
    content = gnu_tar([*img2dataset("y", "bai"), *members, *img2dataset("z", "bai")])
    result = scan_tar(io.BytesIO(content), "s.tar", TXT)
    assert result.unusable == {reason: 1}
    assert result.examples[reason].startswith("s.tar: ")
    assert [result.index.key(i) for i in range(2)] == ["y", "z"]


def test_a_text_that_is_unusable_in_one_language_keeps_the_languages_parallel():
    """An emoji that was cut in two made sources of the same shards differ in length."""
    records = [{"caption": {"en": "a dog", "eu": f"txakur {n}"}} for n in range(3)]
    records[1]["caption"]["eu"] = "katu \ud83d"
    members = [
        member
        for n, record in enumerate(records)
        for member in ((f"{n}.jpg", image()), (f"{n}.json", json.dumps(record).encode()))
    ]
    results, found = {}, []
    for language in ("en", "eu"):
        rules = ScanRules(record=f"caption.{language}", language=language, has_image=True)
        stream = io.BytesIO(gnu_tar(members))
        results[language] = scan_tar(stream, "s.tar", rules, lambda *one: found.append(one))
    assert [len(result.index) for result in results.values()] == [3, 3]
    assert not results["en"].unusable
    assert results["eu"].unusable == {"text is not Unicode": 1}
    assert [key for key, turns in found if isinstance(turns, DataError)] == ["1"]


@pytest.mark.parametrize(
    ("record", "text", "reason"),
    [
        (".{}.txt", b" ", "empty text"),
        (".{}.txt", None, "no .eu.txt member"),
        (".{}", b"\xff", "text is not UTF-8"),
        (".{}", None, "no .eu member"),
        (".caption_{}", b"<image>", "text contains <image>"),
        ("caption_{}", "", "empty text"),
        ("{}-caption", None, "no record 'eu-caption'"),
    ],
)
def test_records_that_name_their_language_stay_parallel(record, text, reason):
    members, scans = [], {}
    for n in range(3):
        values = {language: f"{language} {n}" for language in ("en", "eu")}
        if n == 1:
            values["eu"] = text
        named = {record.format(language): value for language, value in values.items()}
        named = {name: value for name, value in named.items() if value is not None}
        members.append((f"{n}.jpg", image()))
        if record.startswith("."):
            members += [
                (f"{n}{name}", value if isinstance(value, bytes) else value.encode())
                for name, value in named.items()
            ]
        else:
            members.append((f"{n}.json", json.dumps(named).encode()))
    for language in ("en", "eu"):
        rules = ScanRules(record=record.format(language), language=language, has_image=True)
        scans[language] = scan_tar(io.BytesIO(gnu_tar(members)), "s.tar", rules)
    assert scans["en"].index.has_keys_of(scans["eu"].index)
    assert not scans["en"].unusable
    assert scans["eu"].unusable == {reason: 1}


@pytest.mark.parametrize("record", [".txt", "caption", "neutral", "caption_neu"])
def test_a_record_that_names_no_language_is_not_one_of_several(record):
    assert not ScanRules(record=record, language="eu", has_image=True).is_one_of_several


def test_the_image_of_a_sample_without_a_text_is_needed_all_the_same():
    rules = ScanRules(record=".eu.txt", language="eu", has_image=True)
    content = gnu_tar([("a.en.txt", b"x"), ("b.jpg", image()), ("b.eu.txt", b"bai")])
    result = scan_tar(io.BytesIO(content), "s.tar", rules)
    assert result.unusable == {"no image": 1}
    assert len(result.index) == 1


def test_a_decompression_bomb_is_rejected_by_its_header(tmp_path):
    members = [("a.png", image(65, 1)), ("a.txt", b"x"), *img2dataset("b", "bai", size=(10, 10))]
    result = scan(tmp_path, members)
    assert result.unusable == {"image too long": 1}
    assert result.index.image_sizes().tolist() == [[10, 10]]


def test_the_index_has_the_size_of_the_upright_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    result = scan(tmp_path, [("a.jpg", buffer.getvalue()), ("a.txt", b"x")])
    assert result.index.image_sizes().tolist() == [[20, 40]]


def test_members_that_are_no_samples_are_ignored_and_counted(tmp_path):
    members = [
        ("README", b"x"),
        ("__meta__/info.json", b"{}"),
        ("._y.jpg", b"Mac OS X"),
        (".gitkeep", b""),
        ("d/.hidden/a.txt", b"x"),
        ("PaxHeaders.123/y.jpg", b"30 mtime=1.5"),
        ("d/PaxHeader/y.txt", b"30 mtime=1.5"),
        *img2dataset("y", "bai"),
        ("._y.txt", b"Mac OS X"),
    ]
    result = scan(tmp_path, members)
    assert len(result.index) == 1
    assert not result.unusable
    assert result.ignored == {
        "files without an extension": 1,
        "metadata (__NAME__)": 1,
        "metadata of macOS (._NAME)": 2,
        "hidden files": 2,
        "extended headers (PaxHeader)": 2,
        ".json": 1,
    }


def header(name, size, kind=tarfile.REGTYPE, pax=None):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax or {}
    style = tarfile.PAX_FORMAT if pax else tarfile.GNU_FORMAT
    return info.tobuf(style)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"".join(header("x", 0, tarfile.XHDTYPE) for _ in range(3000)), "chained headers"),
        (header("a.txt", 1 << 62), "inside a member|unexpected end"),
        (header("a.txt", 1 << 40) + b"x" * 512, "inside a member|unexpected end"),
        (header("x", 1 << 40, tarfile.GNUTYPE_LONGNAME), "extended header claims"),
        (header("a.txt", 1, pax={"GNU.sparse.map": "1,x,2"}) + bytes(1024), "not a complete tar"),
    ],
)
def test_forged_headers_are_rejected_in_bounded_time(content, reason):
    start = time.process_time()  # other tests run at the same time
    with pytest.raises(DataError, match=reason):
        scan_tar(io.BytesIO(content), "s.tar", TXT)
    assert time.process_time() - start < 2


@pytest.mark.slow
def test_mutated_tars_raise_data_errors_only():
    content = gnu_tar(img2dataset("./d/a", "bat") + img2dataset("k" * 120, "bi"))
    rng, num_read = random.Random(0), 0
    for _ in range(NUM_MUTANTS):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 2, 6))):
            block = rng.randrange(len(changed) // 512)
            at = 512 * block + rng.choice((rng.randrange(512), 124 + rng.randrange(12), 156))
            changed[at] = rng.randrange(256)
            if rng.random() < 0.7:  # with a valid checksum, the fields are believed
                head = changed[512 * block : 512 * block + 512]
                head[148:156] = b" " * 8
                changed[512 * block + 148 : 512 * block + 156] = b"%06o\0 " % (sum(head) & 0o777777)
        if rng.random() < 0.1:
            del changed[rng.randrange(len(changed)) :]
        try:
            result = scan_tar(io.BytesIO(changed), "s.tar", TXT)
            num_read += bool(len(result.index))
        except DataError:
            pass
    assert num_read > NUM_MUTANTS // 20


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

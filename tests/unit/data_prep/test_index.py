"""The index command: existing shards become a source, and every problem is reported."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from core.chat.format import ChatFormat, PromptStyle, load_tokenizer
from core.chat.templates import TEMPLATES
from core.errors import DataError
from data_prep.index import scan
from data_prep.index.__main__ import main
from data_prep.index.inputs import expand_shards
from data_prep.prepare.faults import DroppedError
from data_prep.prepare.reading.rows import read, split
from datamodules.batches.lengths import measure_lengths
from datamodules.shards.manifest import load_manifest, verify
from datamodules.shards.source import Source, check_parallel
from datamodules.storage.remote import RetryConfig
from tests.support.doubles import caption_record, write_tar

TOKENIZER = Path(__file__).parents[3] / "data" / "embedded" / "models" / "lm_general"


def image(i):
    buffer = io.BytesIO()
    Image.new("RGB", (10 + i, 20), (i, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def members(first, count, *, broken=()):
    out = []
    for i in range(first, first + count):
        out.append((f"{i:09d}.png", b"nothing" if i in broken else image(i)))
        out.append((f"{i:09d}.json", json.dumps({"caption": f"irudia {i}", "n": i}).encode()))
        out.append((f"{i:09d}.txt", f"irudia {i}".encode()))
    return out


def test_a_missing_translation_is_counted_by_training_and_keeps_the_languages_parallel(tmp_path):
    members = []
    for n in range(4):
        members += [(f"{n}.png", image(n)), (f"{n}.en.txt", b"a dog")]
        members += [(f"{n}.eu.txt", b"txakur bat")] if n != 2 else []
    write_tar(tmp_path / "s.tar", members)
    for language in ("en", "eu"):
        name = ["--name", language, "--language", language, "--record", f".{language}.txt"]
        assert main([str(tmp_path / "s.tar"), *name, "--max-unusable", "0.3"]) == 0
        verify(tmp_path / f"{language}.manifest.json", deep=True)
    base, target = (Source(tmp_path / f"{tag}.manifest.json") for tag in ("en", "eu"))
    check_parallel(base, target)
    target.announce(2)
    assert base.read(2).turns[1].content == "a dog"
    with pytest.raises(DataError, match="sample '2': the text is empty"):
        target.read(2)


def test_a_first_shard_without_samples_does_not_hide_the_text_of_the_others(tmp_path):
    write_tar(tmp_path / "a.tar", [])
    write_tar(tmp_path / "b.tar", members(0, 2))
    assert main([str(tmp_path / "?.tar"), "--name", "c", "--language", "eu"]) == 0
    assert load_manifest(tmp_path / "c.manifest.json").record == ".txt"
    assert main([str(tmp_path / "a.tar"), "--name", "d", "--language", "eu"]) == 2


@pytest.fixture
def shards(tmp_path):
    for number, count in enumerate((3, 2, 4)):
        write_tar(tmp_path / f"{number:05d}.tar", members(10 * number, count))
    return tmp_path


@pytest.fixture
def scans(monkeypatch):
    """Names of the shards that were scanned."""
    names = []
    original = scan.scan_tar
    monkeypatch.setattr(
        scan, "scan_tar", lambda *args: names.append(args[1][-9:]) or original(*args)
    )
    return names


def run(folder, *arguments, pattern="{00000..00002}.tar"):
    return main([str(folder / pattern), "--name", "c", "--language", "eu", *arguments])


def test_existing_shards_become_a_source(shards, capsys):
    assert run(shards) == 0
    manifest = verify(shards / "c.manifest.json", deep=True)
    assert (manifest.record, manifest.num_samples) == (".txt", 9)
    assert [entry.path for entry in manifest.shards] == ["00000.tar", "00001.tar", "00002.tar"]
    source = Source(shards / "c.manifest.json")
    for place, i in enumerate((0, 1, 2, 10, 11, 20, 21, 22, 23)):
        sample = source.read(place)
        assert (sample.key, sample.image) == (f"{i:09d}", image(i))
        assert [turn.content for turn in sample.turns] == ["<image>", f"irudia {i}"]
    assert source.image_sizes().tolist()[3] == [20, 20]
    assert source.keys().tolist()[-1] == b"000000023"
    output = capsys.readouterr().err
    assert "9 samples (record '.txt')" in output
    assert ".json (9)" in output


def test_the_order_equals_that_of_webdataset(shards):
    run(shards)
    source = Source(shards / "c.manifest.json")
    urls = [str(shards / f"{n:05d}.tar") for n in range(3)]
    plain = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    expected = [(sample["__key__"], sample["txt"].decode()) for sample in plain]
    ours = [(s.key, s.turns[1].content) for s in map(source.read, range(len(source)))]
    assert ours == expected


def test_records_are_read_from_the_json(shards):
    assert run(shards, "--record", "caption", "--modality", "text") == 0
    sample = Source(shards / "c.manifest.json").read(4)
    assert [(turn.role, turn.content) for turn in sample.turns] == [("text", "irudia 11")]
    assert sample.image is None
    write_tar(shards / "own.tar", [("k.json", json.dumps(caption_record("bai")).encode())])
    assert run(shards, "--modality", "text", "--out", str(shards / "o"), pattern="own.tar") == 0
    manifest = load_manifest(shards / "o" / "c.manifest.json")
    assert manifest.record == ""
    assert manifest.shards[0].path == f"file://{shards}/own.tar"
    assert Source(shards / "o" / "c.manifest.json").read(0).turns[1].content == "bai"


def test_only_new_shards_are_scanned(shards, scans):
    assert run(shards, pattern="0000[01].tar") == 0
    assert scans == ["00000.tar", "00001.tar"]
    first = load_manifest(shards / "c.manifest.json").shards[0]
    assert run(shards) == 0
    assert scans[2:] == ["00002.tar"]
    # The same bytes with a new time stamp are compared by checksum and not scanned.
    (shards / "00000.tar").write_bytes((shards / "00000.tar").read_bytes())
    # Other bytes of the same size.
    content = (shards / "00001.tar").read_bytes()
    (shards / "00001.tar").write_bytes(content.replace(b"irudia 11", b"irudia xx"))
    next((shards / "c.index").glob("00002-*")).unlink()
    assert run(shards) == 0
    assert scans[3:] == ["00001.tar", "00002.tar"]
    assert load_manifest(shards / "c.manifest.json").shards[0] == first
    verify(shards / "c.manifest.json", deep=True)
    # Another record needs other rows.
    assert run(shards, "--record", "caption") == 0
    assert len(scans) == 8


def test_an_interrupted_build_resumes(shards, scans, monkeypatch):
    original = scan._scan_shard

    def interrupted(plan, folder, shard):
        if shard.endswith("00001.tar"):
            raise KeyboardInterrupt
        return original(plan, folder, shard)

    monkeypatch.setattr(scan, "_scan_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(shards)
    assert not (shards / "c.manifest.json").exists()
    monkeypatch.setattr(scan, "_scan_shard", original)
    assert run(shards) == 0
    assert scans == ["00000.tar", "00001.tar", "00002.tar"]


def test_parallel_scans_give_the_same_source(shards):
    assert run(shards) == 0
    content = (shards / "c.manifest.json").read_bytes()
    for path in (shards / "c.index").iterdir():
        path.unlink()
    assert run(shards, "--jobs", "2") == 0
    assert (shards / "c.manifest.json").read_bytes() == content
    verify(shards / "c.manifest.json", deep=True)


def test_unusable_samples_are_listed_and_budgeted(shards, scans, capsys):
    write_tar(shards / "00001.tar", members(10, 4, broken=(11, 13)))
    assert run(shards) == 2
    output = capsys.readouterr().err
    assert "2 of 11 samples are unusable, more than --max-unusable 0.01" in output
    assert "2 x the image can't be read (first: " in output
    assert f"(first: {shards}/00001.tar: 000000011)" in output
    assert run(shards, "--max-unusable", "0.2") == 0
    assert len(scans) == 3
    manifest = load_manifest(shards / "c.manifest.json")
    assert manifest.statistics["unusable"] == {"the image can't be read": 2}
    assert [entry.num_samples for entry in manifest.shards] == [3, 2, 4]
    assert "unusable samples" in capsys.readouterr().err


def test_members_that_do_not_follow_each_other_are_explained(shards, capsys):
    """WebDataset, issue 140: the members of a sample are apart if a tar is not sorted."""
    pairs = members(0, 3)
    apart = [m for kind in (".png", ".txt", ".json") for m in pairs if m[0].endswith(kind)]
    assert len(apart) == len(pairs)
    write_tar(shards / "00001.tar", apart)
    assert run(shards) == 2
    assert "tar --sort=name" in " ".join(capsys.readouterr().err.split())
    found = [row for part in split(str(shards / "00001.tar"), per_part=99) for _, row in read(part)]
    assert [isinstance(row, DroppedError) for row in found] == [False] * 3 + [True] * 6


def test_a_shard_without_usable_samples_is_left_out_and_reported(shards, capsys):
    write_tar(shards / "00001.tar", [("x.png", image(1))])
    assert run(shards, "--max-unusable", "0.2") == 0
    assert [e.path for e in load_manifest(shards / "c.manifest.json").shards] == [
        "00000.tar",
        "00002.tar",
    ]
    assert "left out, no usable samples: " in capsys.readouterr().err


def test_all_broken_shards_are_listed_and_the_others_stay_scanned(shards, scans, capsys):
    for name in ("00000.tar", "00002.tar"):
        content = (shards / name).read_bytes()
        (shards / name).write_bytes(content[:3000])
    assert run(shards, "--record", ".txt") == 2
    output = capsys.readouterr().err
    assert "2 of 3 shards cannot be indexed" in output
    assert "00000.tar is not a complete tar" in output
    assert "00002.tar is not a complete tar" in output
    for number, name in enumerate(("00000.tar", "00002.tar")):
        write_tar(shards / name, members(50 * number, 2))
    assert run(shards, "--record", ".txt") == 0
    assert scans[3:] == ["00000.tar", "00002.tar"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "scanned.json is damaged"), ("[]", "is damaged"), ('{"format": 9}', "has format 9")],
)
def test_a_damaged_record_of_scans_is_an_error(shards, capsys, content, message):
    (shards / "c.index").mkdir()
    (shards / "c.index" / "scanned.json").write_text(content)
    assert run(shards) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--jobs", "0"), "--jobs 0"),
        (("--max-unusable", "2"), "--max-unusable 2"),
        (("--name", "a/b"), "--name: 'a/b': use up to 100 letters"),
        (("--language", "e u"), "--language: 'e u' is not a language code"),
        (("--out", ""), "--out: '' is not a path"),
    ],
)
def test_invalid_options_are_errors(shards, capsys, arguments, message):
    try:
        code = run(shards, *arguments)
    except SystemExit as end:  # of argparse
        code = end.code
    assert code == 2
    assert message in capsys.readouterr().err


def test_patterns_are_expanded_in_order(shards):
    retry = RetryConfig()
    urls = expand_shards(["s3://b/{08..10}.tar"], retry)
    assert urls == ("s3://b/08.tar", "s3://b/09.tar", "s3://b/10.tar")
    globbed = expand_shards([f"file://{shards}/*.tar"], retry)
    assert [path[-9:] for path in globbed] == ["00000.tar", "00001.tar", "00002.tar"]
    with pytest.raises(DataError, match="matches no shard"):
        expand_shards([str(shards / "*.tgz")], retry)
    with pytest.raises(DataError, match="is named twice"):
        expand_shards([str(shards / "00000.tar"), str(shards / "*.tar")], retry)


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{0..9999}/{00..10000..2}.tar"])
def test_a_range_beyond_all_shards_is_an_error(pattern):
    """All names were held in memory before the first was looked for."""
    with pytest.raises(DataError, match=r"stands for .* shards; correct it"):
        expand_shards([pattern], RetryConfig())


def test_a_name_with_wildcards_is_first_of_all_a_name(shards):
    for name in ("a[1].tar", "b{1,2}.tar", "c?.tar"):
        write_tar(shards / name, [])
        assert expand_shards([str(shards / name)], RetryConfig()) == (str(shards / name),)


def test_copies_of_a_shard_are_an_error(shards, capsys):
    (shards / "00002.tar").write_bytes((shards / "00001.tar").read_bytes())
    assert run(shards) == 2
    assert "00002.tar is a copy of" in capsys.readouterr().err


def test_the_help_explains_the_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    output = capsys.readouterr().out
    for word in ("img2dataset", "--record", ".txt", "s3://", "scanned.json", "--max-unusable"):
        assert word in output


def test_lengths_are_measured_with_the_index(shards, scans, tmp_path):
    arguments = ["--lengths-for", str(TOKENIZER), "--template", "embedded", "--image-tokens", "3"]
    arguments += ["--prompt-styles", "chat", "plain"]
    assert run(shards) == 0
    assert run(shards, *arguments) == 0
    assert len(scans) == 6  # the shards were indexed, but not measured
    source, styles = Source(shards / "c.manifest.json"), (PromptStyle.CHAT, PromptStyle.PLAIN)
    chat = ChatFormat(load_tokenizer(TOKENIZER), TEMPLATES["embedded"], num_image_tokens=3)
    found = [measure_lengths(source, chat, style, tmp_path / "none") for style in styles]
    assert not (tmp_path / "none").exists()
    assert run(shards, *arguments) == 0
    assert len(scans) == 6
    for path in (shards / "c.index").glob("*.lengths.npy"):
        path.unlink()
    for style, lengths in zip(styles, found, strict=True):
        measured = measure_lengths(source, chat, style, tmp_path / "cache")
        assert np.array_equal(lengths.num_tokens, measured.num_tokens)
        assert np.array_equal(lengths.num_loss_tokens, measured.num_loss_tokens)
        assert lengths.num_tokens.min() > 3


def test_lengths_need_a_known_template(shards, capsys):
    assert run(shards, "--lengths-for", str(TOKENIZER), "--template", "embeded") == 2
    assert "Did you mean 'embedded'?" in capsys.readouterr().err

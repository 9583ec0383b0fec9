"""Libraries of the data preparation: rows, items, segments, quality, cache, fetching, recipes."""

import dataclasses
import io
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ConfigError, DataError
from data_prep.prepare import planning
from data_prep.prepare.faults import DroppedError, Ledger
from data_prep.prepare.fetch import FetchConfig, Outcome, Wanted, fetch_all
from data_prep.prepare.items import make_item, texts_of, with_texts
from data_prep.prepare.reading import rows
from data_prep.prepare.recipe import Kind, SourceRecipe, load_recipe
from data_prep.prepare.recipe_folders import PREPARE_RECIPES, SOURCES
from data_prep.prepare.translation import quality, segments
from data_prep.prepare.translation.memory import Memory
from data_prep.prepare.translation.prompts import load_prompt
from data_prep.prepare.translation.translators import (
    Request,
    TranslateConfig,
    _split_tokens,
    _strip_added_quotes,
)
from tests.support import prepare_world as world
from tests.support.doubles import write_tar

_ROWS = [{"id": str(n), "text": f"row {n}"} for n in range(23)]


# --- rows -----------------------------------------------------------------------------------------


def _write_rows(folder: Path, kind: str, content: Sequence[dict[str, Any]], name: str = "a") -> str:
    path = folder / f"{name}.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(list(content)), path, row_group_size=5)
    elif kind == "json":
        path.write_text(json.dumps(list(content)))
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    elif kind in ("tsv", "csv"):
        mark = "\t" if kind == "tsv" else ","
        path.write_text(
            "\n".join(mark.join(r) for r in (("id", "text"), *(row.values() for row in content)))
            + "\n"
        )
    else:
        with tarfile.open(path, "w") as tar:
            for number, row in enumerate(content):
                for extension, data in (("json", json.dumps(row).encode()), ("png", b"image")):
                    info = tarfile.TarInfo(f"{number:04d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return str(path)


def _read_all(parts: Sequence[rows.Part]) -> list[tuple[int, Any]]:
    return [found for part in parts for found in rows.read(part)]


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl", "tsv", "csv", "tar"])
@pytest.mark.parametrize("per_part", [1, 7, 100])
def test_parts_cover_every_row_once(tmp_path: Path, kind: str, per_part: int) -> None:
    place = _write_rows(tmp_path, kind, _ROWS)
    found = _read_all(rows.split(place, per_part=per_part))
    assert [number for number, _ in found] == list(range(23))
    assert [(row["id"], row["text"]) for _, row in found] == [(r["id"], r["text"]) for r in _ROWS]
    if kind == "tar":
        assert found[3][1]["image"] == b"image"


@pytest.mark.parametrize("kind", ["parquet", "json", "jsonl", "tsv", "csv", "tar"])
def test_a_limit_applies_across_files(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        _write_rows(tmp_path, kind, _ROWS, name)
    parts = rows.split(f"{tmp_path}/*.{kind}", per_part=10, limit=30)
    found = _read_all(parts)
    assert [number for number, _ in found] == list(range(30))
    assert found[23][1]["id"] == "0"


@pytest.mark.parametrize("kind", ["json", "jsonl", "tar"])
def test_a_key_that_is_repeated_in_a_row_replaces_nothing(tmp_path: Path, kind: str) -> None:
    content = b'{"a": 1, "b": {"c": 1, "c": 2}}'
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        write_tar(path, [("k.json", content)])
    else:
        path.write_bytes(b"[%s]" % content if kind == "json" else content)
    parts = rows.split(str(path), per_part=9) if kind != "json" else []
    if kind == "json":
        with pytest.raises(DataError, match="the key 'c' appears twice"):
            rows.split(str(path), per_part=9)
    for _, row in _read_all(parts):
        assert isinstance(row, DroppedError)
        assert "the key 'c' appears twice" in str(row)


def test_lines_of_a_tsv_as_spreadsheets_save_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("\ufeffid\ttext\r\n1\tbat\r\n\r\n2\tbi\r\n\n".encode())
    found = [row for _, row in _read_all(rows.split(str(path), per_part=9))]
    assert found == [{"id": "1", "text": "bat"}, {"id": "2", "text": "bi"}]
    path.write_bytes("id\ttext\n1\tbat\n".encode("utf-16"))
    with pytest.raises(DataError, match="is UTF-16; save it as UTF-8"):
        _read_all(rows.split(str(path), per_part=9))


def test_a_pipe_or_a_folder_is_no_image(tmp_path: Path) -> None:
    """Reading a pipe waited for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    names = ["pipe.png", "folder.png", "none.png", "../a.png", "a\x00.png"]
    (tmp_path / "b.tsv").write_text("image\ta\nfolder.png\tx\n")
    ((_, row),) = _read_all(rows.split(str(tmp_path / "b.tsv"), per_part=9))
    assert "'folder.png' is not a file" in str(row)
    place = _write_rows(tmp_path, "jsonl", [{"image": name} for name in names])
    found = [row for _, row in _read_all(rows.split(place, per_part=9))]
    assert [str(row).partition(":")[0] for row in found] == ["no image file"] * 5


def test_damaged_rows_are_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \nnull\n\xff\n[1]\n{"a": 2}\n')
    found = [row for _, row in _read_all(rows.split(str(tmp_path / "a.jsonl"), per_part=2))]
    assert [isinstance(row, DroppedError) for row in found] == [
        False,
        True,
        True,
        True,
        True,
        False,
    ]
    (tmp_path / "b.tsv").write_bytes(b"x\ty\n1\t2\n1\n\xff\t2\n3\t4\n")
    found = [row for _, row in _read_all(rows.split(str(tmp_path / "b.tsv"), per_part=3))]
    assert [isinstance(row, DroppedError) for row in found] == [False, True, True, False]
    (tmp_path / "c.csv").write_text('x,y\n"a, b",2\n1\n1,2,3\n')
    found = [row for _, row in _read_all(rows.split(str(tmp_path / "c.csv"), per_part=3))]
    assert found[0] == {"x": "a, b", "y": "2"}
    assert [isinstance(row, DroppedError) for row in found] == [False, True, True]


def test_a_parquet_text_that_is_not_utf_8_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    place = tmp_path / "a.parquet"
    array = pa.array([b"a", b"\xffb", b"c"], pa.binary())
    text = pa.StringArray.from_buffers(3, array.buffers()[1], array.buffers()[2])
    pq.write_table(pa.table({"text": text}), place)
    found = [row for _, row in _read_all(rows.split(str(place), per_part=2))]
    assert (found[0], found[2]) == ({"text": "a"}, {"text": "c"})
    assert isinstance(found[1], DroppedError)
    assert found[1].reason == "row is not UTF-8"


def test_columns_of_a_tsv_without_a_header_are_numbered(tmp_path: Path) -> None:
    (tmp_path / "cc3m.tsv").write_text("a dog\thttp://x/1\na cat\thttp://x/2\n")
    (part,) = rows.split(str(tmp_path / "cc3m.tsv"), per_part=9, has_head=False)
    assert [row for _, row in rows.read(part)] == [
        {"0": "a dog", "1": "http://x/1"}, {"0": "a cat", "1": "http://x/2"},
    ]  # fmt: skip


def test_image_paths_cannot_leave_the_folder_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"image")
    (tmp_path / "a.csv").write_text("image\np.png\n../etc/passwd\n/etc/passwd\nmissing.png\n")
    found = [row for _, row in _read_all(rows.split(str(tmp_path / "a.csv"), per_part=9))]
    assert found[0] == {"image": b"image"}
    assert {row.reason for row in found[1:]} == {"no image file"}


def test_damaged_missing_and_unsupported_files_are_errors(tmp_path: Path) -> None:
    for name in ("a.parquet", "a.json", "a.tar"):
        (tmp_path / name).write_bytes(b"PAR1 no, really not")
        with pytest.raises(DataError, match=re.escape(name)):
            _read_all(rows.split(str(tmp_path / name), per_part=5))
    with pytest.raises(ConfigError, match="no file"):
        rows.split(str(tmp_path / "nothing.parquet"), per_part=5)
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(ConfigError, match="unsupported format"):
        rows.split(str(tmp_path / "a.xlsx"), per_part=5)


# --- items ----------------------------------------------------------------------------------------


def _recipe(kind: Kind = Kind.CHAT, **columns: str) -> SourceRecipe:
    chosen = columns or {"conversation": "c"}
    return SourceRecipe(kind=kind, place="x.jsonl", licence="CC0-1.0", columns=chosen)


def _item(recipe: SourceRecipe, row: dict[str, Any]) -> Any:
    return make_item(recipe, row, "k", base="en", target="")


def test_llava_and_openai_conversations_give_the_same_record() -> None:
    llava = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
    openai = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A dog."}]
    recipe = _recipe(conversation="c", image="i")
    records = [_item(recipe, {"c": c, "i": b"x"}).records["en"] for c in (llava, openai)]
    assert records[0] == records[1]
    assert records[0]["messages"][0] == {"role": "user", "content": "<image>\nWhat?"}


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        (None, "no conversation"),
        ([], "no conversation"),
        (["x"], "a turn is not an object"),
        ([{"role": "robot", "content": "x"}], "unknown speaker"),
        ([{"role": ["user"], "content": "x"}], "unknown speaker"),
        ([{"role": "user", "content": " "}], "empty text"),
        ([{"role": "user", "content": "x"}], "turns do not alternate"),
        ([{"role": "user", "content": "a\ud800"}], "text is not Unicode"),
        ([{"role": "user", "content": "<image>"}, {"role": "assistant", "content": "x"}],
         "text contains <image>"),
    ],
)  # fmt: skip
def test_an_invalid_conversation_is_dropped_with_its_reason(conversation: Any, reason: str) -> None:
    with pytest.raises(DroppedError) as caught:
        _item(_recipe(), {"c": conversation})
    assert caught.value.reason == reason


def test_texts_are_read_and_replaced_in_the_same_order() -> None:
    chat = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    quiz = {"question": "q", "answers": ["x", "y", "x"], "choices": ["x", "z"], "correct_choice": 1}
    for record, texts in (("cap", ["cap"]), (chat, ["a", "b"]), (quiz, ["q", "x", "z", "x", "y"])):
        assert texts_of(record) == texts
        changed = with_texts(record, [text.upper() for text in texts])
        assert texts_of(changed) == [text.upper() for text in texts]
    assert with_texts(quiz, ["Q", "X", "Z", "X", "Y"])["answers"] == ["X", "Y", "X"]


# --- segments and quality -------------------------------------------------------------------------


@given(
    st.text(alphabet=st.sampled_from(list("aB. ?!\n`<>/$%{}()1,-:ñ\u00bf")), max_size=80)
    | st.text()
)
@settings(max_examples=400, deadline=None)
def test_joined_pieces_equal_the_text(text: str) -> None:
    pieces = segments.split(text)
    assert "".join(piece for piece, _ in pieces) == text
    assert all(piece for piece, _ in pieces)


def test_code_markup_and_numbers_are_not_translated() -> None:
    text = "<image>\nWhich one? Look.\nA. a dog\n(B) a cat\n- see https://x.org/a?b "
    text += "and `code` {name} $x^2$"
    wanted = [piece for piece, is_language in segments.split(text) if is_language]
    assert wanted == ["Which one?", "Look.", "a dog", "a cat", "see", "and"]
    assert not segments.has_language("12 + 3.5 = `x`")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "translation", "reason"),
    [
        ("There are 1,000.5 dogs", "1.000,5 txakur daude", None),
        ("There are 10 dogs", "Hamar txakur daude", "other numbers"),
        ("There are 10.5 dogs", "\u09e7\u09e6.\u09eb txakur daude", None),  # Bengali digits
        ("See `x` here", "Ikusi x hemen", "placeholders differ"),
        ("A. one\nB. two", "A. bat\nB. bi", None),
        ("A. one\nB. two", "bat\nbi", "placeholders differ"),
        ("Paris is big", "Paris is big", "untranslated"),
        ("Paris", "Paris", None),
        ("This is a rather long sentence", "Hau", "too short"),
        ("A long enough source text", "hitz " * 40, "too long"),
        ("What is in this image of a street in the old town", "", "empty"),
        ("The dog sleeps on the sofa in the room.", "The dog is on the sofa in that room.",
         "wrong language"),
        ("This sentence of the source is as long as what comes out of it, more or less so.",
         "bai bai bai bai bai bai bai bai bai bai bai bai bai bai bai bai bai",
         "repeats itself"),
    ],
)  # fmt: skip
def test_bad_translations_are_detected(source: str, translation: str, reason: str | None) -> None:
    config = quality.QualityConfig(max_repetition=0.4)
    figures = quality.measure(source, translation, ("en", "eu"))
    try:
        quality.check(source, translation, figures, config, "eu")
        found = None
    except DroppedError as error:
        found = error.reason.removeprefix("translation: ")
    assert found == reason


def test_filters_can_be_turned_off() -> None:
    off = quality.QualityConfig(
        min_length_ratio=0, max_length_ratio=1e9, language_from=0, numbers=False,
        placeholders=False, max_repetition=0, untranslated_from=0,
    )  # fmt: skip
    source, translation = "There are 10 `dogs` in here", "There are 10 `dogs` in here"
    for changed in (translation, translation * 30, "x"):
        quality.check(source, changed, quality.measure(source, changed, ("en", "eu")), off, "eu")


# --- memory ---------------------------------------------------------------------------------------


class _UppercaseTranslator:
    """Translator that converts texts to upper case and records its requests."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def batches(self, requests: Sequence[Request]) -> list[list[int]]:
        return [[at] for at in range(len(requests))]

    def translate(self, requests: Sequence[Request]) -> list[str]:
        self.asked += [request.text for request in requests]
        return [request.text.upper() for request in requests]

    def costs(self) -> dict[str, float]:
        return {}


def _memory(path: Path, translator: _UppercaseTranslator, identity: str = "a") -> Memory:
    return Memory(path, lambda: translator, identity, {"yes": "bai"})


def test_nothing_is_translated_twice_after_a_kill(tmp_path: Path) -> None:
    path, translator = tmp_path / "m.jsonl", _UppercaseTranslator()
    texts = [Request(text) for text in ("a dog", "yes", "Yes", "12", "a dog", "a cat")]
    found = _memory(path, translator).translate(texts, lambda: None)
    assert found == ["A DOG", "bai", "Bai", "12", "A DOG", "A CAT"]
    assert translator.asked == ["a dog", "a cat"]
    path.write_bytes(path.read_bytes()[:-5])  # killed while writing the second entry
    again = _UppercaseTranslator()
    assert _memory(path, again).translate(texts, lambda: None) == found
    assert again.asked == ["a cat"]
    with_context = [Request("a dog", (("x", "y"),))]
    other = _UppercaseTranslator()
    _memory(path, other).translate(with_context, lambda: None)
    assert other.asked == ["a dog"]
    changed = _UppercaseTranslator()
    _memory(path, changed, "b").translate(texts[:1], lambda: None)
    assert changed.asked == ["a dog"]


def test_a_damaged_cache_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(DataError, match="damaged"):
        _memory(tmp_path / "m.jsonl", _UppercaseTranslator())


def test_long_sentences_are_split_between_words() -> None:
    tokens = ["\u2581a", "b", "\u2581c", "d", "e", "\u2581f"]
    assert _split_tokens(tokens, 4) == [["\u2581a", "b"], ["\u2581c", "d", "e", "\u2581f"]]
    for max_tokens in (1, 2, 3, 10):
        assert [t for chunk in _split_tokens(tokens, max_tokens) for t in chunk] == tokens
        assert all(len(chunk) <= max_tokens for chunk in _split_tokens(tokens, max_tokens))


def test_added_quotation_marks_are_removed() -> None:
    assert _strip_added_quotes('"Txakur bat"', "A dog") == "Txakur bat"
    assert _strip_added_quotes('"Txakur bat"', '"A dog"') == '"Txakur bat"'
    assert _strip_added_quotes('"Bai", esan zuen. "Ez"', "x") != ""


# --- fetching -------------------------------------------------------------------------------------

_QUICK = {"timeout_s": 1.0, "wait_s": 0.02, "retries": 1, "max_bytes": 2_000_000}


def _outcomes(urls: Sequence[str], **changed: Any) -> dict[str, tuple[str, str]]:
    found = {}
    config = FetchConfig(**{**_QUICK, **changed})
    fetch_all([Wanted(url=url) for url in urls], config,
              lambda one: found.update({one.wanted.url: (one.outcome, one.detail)}))  # fmt: skip
    return found


def test_every_kind_of_failed_download_has_its_outcome() -> None:
    with world.web() as web:
        urls = {web.url + path: reason for path, reason in world.TRAPS.items()}
        good = [f"{web.url}/{path}/7" for path in ("p", "moved", "busy")]
        found = _outcomes([*urls, *good], allow_private=True)
        assert {url: f"image: {found[url][0]}" for url in urls} == urls
        assert {found[url][0] for url in good} == {Outcome.FETCHED}
        assert web.asked["/busy/7"] == 2
        assert web.asked["/gone"] == 1


def test_private_addresses_are_never_requested() -> None:
    with world.web() as web:
        port = web.url.rpartition(":")[2]
        hosts = ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0.0.0.0",
                 "10.0.0.1", "192.168.1.1", "169.254.169.254", "172.16.0.1"]  # fmt: skip
        found = _outcomes([f"http://{host}:{port}/p/1" for host in hosts])
        refused = {Outcome.PRIVATE, Outcome.UNREACHABLE, Outcome.GONE}
        assert {outcome for outcome, _ in found.values()} <= refused
        literal = [
            f"http://{host}:{port}/p/1" for host in hosts if host[0].isdigit() and "." in host
        ]
        assert {found[url][0] for url in literal} == {Outcome.PRIVATE}
        assert found[f"http://localhost:{port}/p/1"][0] == Outcome.PRIVATE
        assert not web.asked, "a private address was requested"


def test_redirects_to_private_addresses_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # The first hop counts as a public address, the second does not.
    import data_prep.prepare.fetch as module

    original = module._is_public
    monkeypatch.setattr(module, "_is_public", lambda a: str(a) == "127.0.0.1" or original(a))
    with world.web() as web:
        found = _outcomes([f"{web.url}/inside"])
        assert found[f"{web.url}/inside"][0] == Outcome.PRIVATE


@pytest.mark.parametrize(
    "url", ["", "x", "file:///etc/passwd", "ftp://x.org/a", "http://", "http://[::1",
            "data:image/png,x", "http://x.org:99999/a", "http://\u0000/"],
)  # fmt: skip
def test_invalid_urls_are_reported_as_unreachable(url: str) -> None:
    assert _outcomes([url])[url][0] in (Outcome.UNREACHABLE, Outcome.GONE)


# --- recipes and plans ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(PREPARE_RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_and_their_sources_load(path: Path) -> None:
    config, sources = load_recipe(path.stem, [])
    assert list(sources) == config.sources
    assert all(source.licence and source.attribution for source in sources.values())


def test_every_shipped_source_is_used_by_a_recipe() -> None:
    used = {
        name for path in PREPARE_RECIPES.glob("*.yaml") for name in load_recipe(path.stem, [])[1]
    }
    assert used == {path.stem for path in SOURCES.glob("*.yaml")}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["cc3m.plac=x"], "plac"),
        (["per_part=0"], "per_part"),
        (["translate.backend=ctranslate2"], "needs translate.model"),
        (["translate.backend=endpoint"], "needs translate.endpoint"),
        (["cc3m.columns.imag_url=x"], "Did you mean 'image_url'"),
        (["quality.min_length_ratio=9"], "below max_length_ratio"),
        (["cc3m.leave_out={url: '('}"], "leave_out.url: '\\(' is not a regular expression"),
        (["sources=[../cc3m]"], r"source '\.\./cc3m': use up to 100 letters"),
        (["sources=[cc3m, cc3m]"], "source 'cc3m' is listed twice"),
    ],
)
def test_invalid_settings_are_errors(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe("paper", overrides)


def test_overrides_of_an_unused_source_are_errors(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("sources: [cc3m]\n")
    load_recipe(str(tmp_path / "mine.yaml"), ["cc3m.place=x"])
    with pytest.raises(ConfigError, match="magpie"):
        load_recipe(str(tmp_path / "mine.yaml"), ["magpie.place=x"])


def test_a_plan_without_a_translator_is_for_dry_runs_only(tmp_path: Path) -> None:
    place = _write_rows(tmp_path, "jsonl", [{"c": []}])
    config, _ = load_recipe("paper", [])
    recipe = SourceRecipe(kind=Kind.CHAT, place=place, licence="x", columns={"conversation": "c"})
    request = planning.PreparationRequest(recipe="p", language="eu", out=tmp_path)
    with pytest.raises(ConfigError, match="no published translation into 'eu'"):
        planning.make_plan(request, config, {"mine": recipe})
    plan = planning.make_plan(request, config, {"mine": recipe}, only_look=True)
    assert planning.estimate(plan, plan.sources[0]).by.startswith("not set")
    with pytest.raises(ConfigError, match=r"Missing files of 'cy':\n  data.yaml"):
        load_prompt("cy", tmp_path)
    with pytest.raises(ConfigError, match="is the language of the sources"):
        planning.make_plan(dataclasses.replace(request, language="en"), config, {})


def test_a_ledger_that_does_not_add_up_is_an_error() -> None:
    one = Ledger(num_in=3, num_out=2, dropped=Counter({"x": 1}))
    one.check("here")
    other = Ledger.load(json.loads(json.dumps(one.dump())))
    one.merge(other)
    assert (one.num_in, one.num_out, one.dropped["x"]) == (6, 4, 2)
    one.num_out += 1
    with pytest.raises(Exception, match="do not add up"):
        one.check("here")


def test_translation_settings_are_validated() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        TranslateConfig(beam_size=0)


def test_rows_of_a_shard_have_its_keys_and_its_own_images(tmp_path):
    tar = tmp_path / "s.tar"
    record = json.dumps({"image": "coco/1.jpg", "txt": "other", "__key__": "x", "n": 1}).encode()
    with tarfile.open(tar, "w") as file:
        for name, content in (
            ("._d.v1/1.jpg", b"Mac OS X"), ("d.v1/1.jpg", b"pixels"), ("d.v1/1.json", record),
            ("d.v1/1.txt", "\ufeffkatua".encode()), ("./2.png", b"more"), ("./2.webp", b"more"),
        ):  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    (part,) = rows.split(str(tar), per_part=10)
    (_, first), (_, second) = rows.read(part)
    assert first == {"__key__": "d.v1/1", "image": b"pixels", "txt": "katua", "n": 1}
    assert isinstance(second, DroppedError)
    assert second.reason == "two images"

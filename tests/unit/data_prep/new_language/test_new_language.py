"""The folder of a new language: facts, empty places, checks and questions."""

import io
import re
from pathlib import Path
from typing import ClassVar

import pytest

from configuration.axes import flatten
from configuration.run_config import RunConfig
from core.config import load_config
from core.errors import DataError
from core.languages import ANSWERS, DATA, PROMPTS, TRANSLATION
from data_prep.embedded.wordings import load_language
from data_prep.new_language import facts as facts_module
from data_prep.new_language import steps
from data_prep.new_language.check import check_folder
from data_prep.new_language.facts import NO_LOCALE, LanguageFacts, gather_facts
from data_prep.new_language.settings import grid_settings
from data_prep.new_language.slots import fill, find_slots
from data_prep.new_language.template import TYPOLOGY, single_words, write_files
from experiments.grids import first_cell

SWAHILI = LanguageFacts(
    code="sw",
    english_name="Swahili",
    own_name="Kiswahili",
    script="Latn",
    cldr="sw",
    yes="ndiyo",
    no="hapana",
    numerals=("sifuri", "moja", "mbili", "tatu", "nne"),
    more_numerals={"ishirini": 20},
    names={"1f34e": "tufaha"},
    english_names={"1f34e": "red apple", "1f68c": "bus"},
    help_package="",
    help_folder="",
)
"""With one of two objects named."""


class FakePackages:
    """Small versions of the packages of CLDR."""

    files: ClassVar = {
        "main/en/languages.json": {"en": "English", "sw": "Swahili", "oc": "Occitan"},
        "main/sw/languages.json": {"sw": "Kiswahili"},
        "supplemental/likelySubtags.json": {"sw": "sw-Latn-TZ"},
        "main/sw/posix.json": {"yesstr": "Ndiyo:N", "nostr": "Hapana:H"},
        "main/oc/posix.json": {"yesstr": "yes:y", "nostr": "no:n"},
        "rbnf/sw.json": {
            "%spellout-numbering": [["0", "=%spellout-cardinal=;"]],
            "%spellout-cardinal": [["0", "sifuri;"], ["1", "mo\u00adja;"], ["2", "mbili;"],
                                   ["20", "ishirini[ na >>];"], ["100", "mia <<;"]],
        },
        "annotations/en/annotations.json": {"\U0001f34e": {"tts": ["red apple"]}},
        "annotations/sw/annotations.json": {"\U0001f34e": {"tts": ["tufaha"]}},
        "annotationsDerived/en/annotations.json": {},
    }  # fmt: skip

    def npm_names(self, _):
        return list(self.files)

    def npm_json(self, _, member):
        content = self.files[member]
        kind, locale, *_ = [*member.split("/"), ""]
        if member.endswith("languages.json"):
            return {"main": {locale: {"localeDisplayNames": {"languages": content}}}}
        if member.endswith("posix.json"):
            return {"main": {locale: {"posix": {"messages": content}}}}
        if kind == "supplemental":
            return {"supplemental": {"likelySubtags": content}}
        if kind == "rbnf":
            return {"rbnf": {"rbnf": {"SpelloutRules": content}}}
        return {kind: {"annotations": content}}


def write_folder(tmp_path, facts=SWAHILI):
    own = tmp_path / facts.code
    own.mkdir()
    for name, text in write_files(facts).items():
        (own / name).write_text(text, encoding="utf-8")
    return own


def complete(path):
    """Fill every empty place of a file that a person has to fill, with the English text."""
    while slots := [one for one in find_slots(path.read_text()) if not one.is_optional]:
        answer = "0" if slots[0].english.startswith("to English:") else slots[0].english
        path.write_text(fill(path.read_text(), slots[0], answer))


def test_facts_come_from_cldr_and_english_is_no_answer():
    packages = FakePackages()
    found = gather_facts("sw", packages, help_packages=("libreoffice-help-sw",))
    assert (found.english_name, found.own_name, found.script) == ("Swahili", "Kiswahili", "Latn")
    assert (found.yes, found.no) == ("ndiyo", "hapana")
    assert found.numerals == ("sifuri", "moja", "mbili")
    assert found.more_numerals == {"ishirini": 20}
    assert found.names == {"1f34e": "tufaha"}
    assert (found.help_package, found.help_folder) == ("libreoffice-help-sw", "sw")
    sparse = gather_facts("oc", packages)
    assert (sparse.yes, sparse.no, sparse.cldr) == ("", "", NO_LOCALE)
    assert len(sparse.describe_gaps()) == 5
    with pytest.raises(DataError, match=r"unknown language 'xx'.*--name"):
        gather_facts("xx", packages)
    assert gather_facts("xx", packages, name="Xish").english_name == "Xish"


def test_a_new_folder_is_rejected_line_by_line_until_it_is_filled_in(tmp_path):
    own = write_folder(tmp_path)
    problems = check_folder("sw", tmp_path)
    assert {one.path.name for one in problems} == {DATA, PROMPTS, TRANSLATION, TYPOLOGY}
    first = next(one for one in problems if "What is this?" in one.message)
    assert '""  # What is this?' in first.path.read_text().splitlines()[first.line - 1]
    with pytest.raises(DataError, match="empty"):
        load_language("sw", tmp_path)
    for path in own.iterdir():
        complete(path)
    assert check_folder("sw", tmp_path) == []
    language = load_language("sw", tmp_path)
    assert language.numbers == ("moja", "mbili", "tatu", "nne")
    assert language.yes == "ndiyo"
    assert language.names == {}


def test_a_name_that_cldr_lacks_is_uncommented_when_it_is_given(tmp_path):
    path = write_folder(tmp_path) / DATA
    complete(path)
    (slot,) = [one for one in find_slots(path.read_text()) if not one.is_list]
    assert slot.english == "bus"
    path.write_text(fill(path.read_text(), slot, "basi"))
    assert load_language("sw", tmp_path).names == {"1f68c": "basi"}


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        (DATA, "{a}; {b}", "{a}; {x}", "has other placeholders than choice needs"),
        (DATA, "    - \"What is this?\"  # What is this?\n", "", "name has 2 wordings"),
        (DATA, "cldr: sw", "cldr: sw\ncldr: sw", "'cldr' is repeated"),
        (DATA, "yes", "yes\x00", "is not YAML"),
        (DATA, "places:", "placs:", "unknown key 'placs'"),
        (DATA, "  animal:", "  animals:", "unknown categories 'animals'"),
        (PROMPTS, "yes_words: [", "yes_words: [\"hapana\", ", "hapana is in yes_words and"),
        (ANSWERS, "\"moja\"", "\"moja moja\"", "'moja moja' is several words"),
        (TYPOLOGY, "relatedness: \"0\"", "relatedness: far", "'relatedness' is 'far'"),
    ],
)  # fmt: skip
def test_problems_name_the_line(tmp_path, name, old, new, expected):
    own = write_folder(tmp_path)
    for path in own.iterdir():
        complete(path)
    text = (own / name).read_text()
    assert old in text
    (own / name).write_text(text.replace(old, new, 1))
    (problem,) = check_folder("sw", tmp_path)
    assert expected in problem.message
    line = text.replace(old, new, 1).splitlines()[problem.line - 1]
    assert re.search(r"yes|cldr|placs|animals|\{x\}|name:|hapana|moja|far", line), line


def test_the_dialogue_fills_in_what_is_typed_and_can_stop(tmp_path, monkeypatch, capsys):
    own = write_folder(tmp_path)
    slots = find_slots((own / DATA).read_text())
    place = next(n for n, one in enumerate(slots) if one.english == "What is this?")
    typed = "n\n" + "\n" * place + "Ni nini hii?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    steps.ask_for_gaps(own)
    assert '- "Ni nini hii?"  # What is this?' in (own / DATA).read_text()
    assert "the same command continues here" in capsys.readouterr().out


def test_a_folder_that_exists_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(steps, "gather_facts", lambda *_, **__: SWAHILI)
    monkeypatch.setattr(steps, "measure_fertility", lambda *_: None)
    monkeypatch.setattr(steps, "list_help_packages", lambda: ())
    own = tmp_path / "sw"
    own.mkdir()
    (own / DATA).write_text("mine")
    quiet = steps.CreationPlan(asks=False)
    assert steps.create("sw", tmp_path, quiet) == 1
    assert (own / DATA).read_text() == "mine"
    assert (own / PROMPTS).is_file()
    steps.create("sw", tmp_path, steps.CreationPlan(asks=False, overwrites=True))
    assert (own / f"{DATA}.old").read_text() == "mine"
    assert "Kiswahili" in (own / DATA).read_text()


def test_settings_follow_from_the_data(tmp_path):
    plain = grid_settings("sw", tmp_path, has_text=True)
    assert plain == ["languages.target=sw", f"data.folder={tmp_path}"]
    long = grid_settings("ka", tmp_path, has_text=False)
    assert "instruct.text_only.text.samples_per_step=0" in long
    assert "instruct.text_only.chat.samples_per_step=2" in long
    # `--build` passes them to `first_cell`, which must not set the same fields.
    base = load_config(RunConfig, Path("configs/embedded.yaml"), overrides=long)
    (cell,) = (flatten(one) for one in first_cell.cells(base))
    paths = {setting.partition("=")[0] for setting in long}
    assert {path: cell[path] for path in paths & cell.keys()} == {
        path: value for path, value in flatten(base).items() if path in paths & cell.keys()
    }
    shares = [cell[name] for name in ("cell.target_share", "align.target_share")]
    assert shares == [1.0, 1.0]
    shorter = load_config(RunConfig, Path("configs/embedded.yaml"),
                          overrides=["align.num_steps=3", "instruct.num_steps=4"])  # fmt: skip
    (short,) = first_cell.cells(shorter)
    assert (short.align.num_steps, short.instruct.num_steps) == (3, 4)


def test_number_words_lose_a_common_particle():
    assert single_words(["a haon", "a dó"]) == ["haon", "dó"]
    assert single_words(["zero", "one", "twenty one"]) == ["zero", "one"]
    assert facts_module._spell({"%a": {"0": "=%b=;"}, "%b": {"3": "drei;"}}, "%a", 3) == "drei"


def test_shipped_languages_pass():
    for code in ("eu", "cy", "ka"):
        assert [one for one in check_folder(code) if one.is_required] == []

"""Benchmarks of photographs: readers of small packages, balanced items, the whole build."""

import io
import json
import string
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from core.errors import ConfigError, DataError
from data_prep.embedded.concepts import Catalogue, load_catalogue
from data_prep.embedded.packages import DEFAULT_FOLDER, PackageFolder
from data_prep.embedded.wordings import load_languages
from data_prep.photographs import __main__ as command
from data_prep.photographs.build import DESCRIPTIONS, PHOTOS, build_photos
from data_prep.photographs.gcompris import GCOMPRIS, parse_photographs
from data_prep.photographs.items import Planner, usable_titles
from data_prep.photographs.naming import name_photographs
from data_prep.photographs.photograph import Photograph
from data_prep.photographs.tuxpaint import TUX_PAINT, parse_captions, parse_stamps
from evaluation.asking import AskingConfig
from evaluation.benchmarks.items import load_benchmark
from evaluation.item_checks import check_items
from tests.support.qt_files import make_catalogue, make_resources
from tests.unit.data_prep.embedded.test_embedded_recipe import FakePackages

NUM_CONCEPTS = 12
BOARD = """QtObject {{
    property var tab: [ {objects} ]
}}
"""
OBJECT = """{{
    "image": "qrc:/pictures/key.svg",
    "title": qsTr("{title}"),
    "text": qsTr("{text}"),
    "image2": "qrc:/pictures/{name}.webp", "text2": qsTr("{title}"), "x": 0.3
}},"""
CAPTIONS = "{english}.\n\neu.utf8={basque}.\ncy.utf8=\n"


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, number // 256, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def activity(names: list[str]) -> bytes:
    objects = "".join(
        OBJECT.format(name=name, title=f"The {name}", text=f'A \\"{name}\\" of stone.')
        for name in names
    )
    files = {f"pictures/{name}.webp": picture(number) for number, name in enumerate(names)}
    return make_resources({**files, "board/board1.qml": BOARD.format(objects=objects).encode()})


def catalogue(names: list[str]) -> bytes:
    titles = [("board1", f"The {name}", f"{name}a") for name in names]
    texts = [("board1", f'A "{name}" of stone.', f"Harrizko {name}a.") for name in names]
    return make_catalogue([*titles, *texts, ("menu", "The castle", "another text")])


BUILDINGS = ["castle", "bridge", "tower", "temple", "palace"]
ACTIVITIES = ("explore_farm_animals", "explore_monuments", "explore_world_animals")
GCOMPRIS_FILES = {
    **{f"rcc/{name}.rcc": activity([f"{word}{number}" for word in BUILDINGS])
       for number, name in enumerate(ACTIVITIES)},
    "rcc/explore_world_music.rcc": activity(["drum"]),
    "translations/gcompris_eu.qm": catalogue(
        [f"{word}{number}" for word in BUILDINGS for number in range(3)] + ["drum"]
    ),
}  # fmt: skip


def stamps(names: dict[str, tuple[str, str]]) -> list[tuple[str, bytes]]:
    files = []
    for number, (path, (english, basque)) in enumerate(names.items()):
        text = CAPTIONS.format(english=english, basque=basque)
        files += [(f"{path}.png", picture(100 + number)), (f"{path}.txt", text.encode())]
    return files


STAMPS = stamps(
    {
        "animals/ant": ("An enx1f41c", "Inurri bat"),  # the English name in the small CLDR
        "animals/toucan": ("A toucan", "Tukan bat"),
        "animals/cartoon/bee": ("A bee", "Erle bat"),
        "animals/hedgehog": ("A hedgehog", "Elur lera"),
        "food/pear": ("A pear!", "Madaria!"),
        "food/long": ("A pot, which is used to cook a soup", "Zopa egiteko lapikoa"),
        "food/pear2": ("A yellow pear", "Udare horia"),
        "symbols/a": ("The letter A", "A letra"),
    }
)


class FakeDebianPackages(FakePackages):
    """Small packages in place of GCompris, Tux Paint and CLDR."""

    def debian_files(self, name: str, prefix: str, suffixes: Any) -> Any:
        files = GCOMPRIS_FILES.items() if name == GCOMPRIS.name else STAMPS
        return (file for file in files if file[0].endswith(suffixes))

    def debian_archive(self, name: str) -> Path:
        return Path(f"{name}_1.0_all.deb")


@pytest.fixture
def packages(tmp_path: Path) -> PackageFolder:
    return FakeDebianPackages(tmp_path)


def numbered(count: int, group: str = "a") -> list[Photograph]:
    words = [f"{first}{second}" for first in string.ascii_lowercase for second in "aeiou"]
    return [
        Photograph(
            key=f"{group}-{words[i]}", image=picture(i), group=group,
            titles={"en": f"the {words[i]}{group}", "eu": f"{words[i]}{group}a"},
            descriptions={"en": f"It is {words[i]}{group}.", "eu": f"{words[i]}{group}a da."},
        )
        for i in range(count)
    ]  # fmt: skip


def test_photographs_of_gcompris_have_titles_and_descriptions() -> None:
    found = parse_photographs(GCOMPRIS_FILES, ["en", "eu"])
    assert len(found) == 16
    first = found[0]
    assert first.key == "gcompris-farm-animals-bridge0"
    assert first.titles == {"en": "The bridge0", "eu": "bridge0a"}
    assert first.descriptions == {"en": 'A "bridge0" of stone.', "eu": "Harrizko bridge0a."}
    assert first.image == picture(1)
    assert found[-1].titles == {}  # the titles of the activity about music name countries


def test_a_language_without_catalogue_has_no_photographs() -> None:
    assert parse_photographs(GCOMPRIS_FILES, ["en", "cy"]) == []


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no rcc/explore_farm_animals.rcc"),
        ({f"rcc/{ACTIVITIES[0]}.rcc": b"RIFF"}, "explore_farm_animals.rcc is not an intact"),
        ({f"rcc/{ACTIVITIES[0]}.rcc": make_resources(
            {"board/board1.qml": OBJECT.format(name="owl", title="a", text="b").encode()}
        )}, "there is no photograph '/pictures/owl.webp'"),
        (GCOMPRIS_FILES | {"translations/gcompris_eu.qm": b"text"}, "eu.qm is not an intact"),
    ],
)  # fmt: skip
def test_damaged_files_of_gcompris_are_named(files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_photographs(files, ["en", "eu"])


def test_stamps_are_photographs_with_captions_in_all_languages() -> None:
    found = {one.titles["en"]: one for one in parse_stamps(STAMPS, ["en", "eu"])}
    assert set(found) == {
        "An enx1f41c", "A toucan", "A pear", "A yellow pear", "A pot, which is used to cook a soup",
    }  # fmt: skip
    assert found["A pear"].titles["eu"] == "Madaria"
    assert found["A pear"].group == "tuxpaint/food"
    assert parse_stamps(STAMPS, ["en", "cy"]) == []
    assert "A hedgehog" in {one.titles["en"] for one in parse_stamps(STAMPS, ["en"])}


def test_captions_are_cleaned_and_the_first_of_a_language_counts() -> None:
    content = "\ufeffA  red\u200b apple. \neu.utf8=Sagar gorria!\neu.utf8=x\nes=y\n=z\n".encode()
    assert parse_captions(content, "a.txt") == {"en": "A red apple", "eu": "Sagar gorria"}
    assert parse_captions(b"", "a.txt") == {}
    with pytest.raises(DataError, match=r"a\.txt: it is not UTF-8"):
        parse_captions(b"\xff\xfe", "a.txt")


def test_titles_are_equally_often_right_and_wrong() -> None:
    photographs = [*numbered(10), *numbered(7, "b"), *numbered(2, "c")]
    items = Planner(load_languages(["en", "eu"]), 0).title_items(photographs)
    assert set(items) == {one.key for one in photographs}
    flat = [item for one in items.values() for item in one]
    choices = [item for item in flat if item["benchmark"] == "mc"]
    offered = Counter(title for item in choices for title in item["choices"]["en"])
    assert len(choices) == 17  # a group of two is too small for a choice
    assert set(offered.values()) == {4}
    groups = {title[-1] for item in choices for title in item["choices"]["en"]}
    assert groups == {"a", "b"}
    for item in choices:
        right = next(one for one in photographs if f"title-{one.key}" == item["question_id"])
        for language in ("en", "eu"):
            chosen = item["choices"][language][item["correct_choice"]]
            assert chosen == right.titles[language]
            assert chosen in item["question"][language]
    checks = [item for item in flat if item["benchmark"] == "capqa"]
    answers = Counter(item["answers"]["en"][0] for item in checks)
    assert answers == {"yes": 5 + 3 + 1, "no": 5 + 3 + 1}
    asked = {title: Counter(item["answers"]["eu"][0] for item in checks
                            if title in item["question"]["eu"])
             for one in photographs for title in (one.titles["eu"],)}  # fmt: skip
    assert {tuple(sorted(found.items())) for found in asked.values()} == {
        (), (("bai", 1), ("ez", 1)),
    }  # fmt: skip


def test_a_title_that_may_be_true_is_never_a_wrong_answer() -> None:
    titles = ["a bear", "a polar bear", "an ant", "a bee", "a cow"]
    photographs = [
        Photograph(key=title, image=b"", group="a", titles={"en": title}) for title in titles
    ]
    items = Planner(load_languages(["en"]), 0).title_items(photographs)
    for item in (item for one in items.values() for item in one):
        if item["benchmark"] == "mc":
            assert not {"a bear", "a polar bear"} <= set(item["choices"]["en"])


def test_only_short_titles_without_separators_are_asked_about() -> None:
    titles = ["a bee", "a red, round apple", "", "one two three four five six", "what?", "a" * 29]
    photographs = [
        Photograph(key=str(i), image=b"", group="a", titles={"en": title})
        for i, title in enumerate(titles)
    ]
    found = usable_titles([*photographs, Photograph(key="x", image=b"", group="a", titles={})])
    assert [one.titles["en"] for one in found] == ["a bee"]


@pytest.fixture(scope="module")
def concepts(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    fake = FakePackages(tmp_path_factory.mktemp("packages"))
    return load_catalogue(fake, load_languages(["en", "eu"]), NUM_CONCEPTS)


def test_names_are_the_union_of_both_sources(concepts: Catalogue) -> None:
    english = concepts.lexicons[0].names
    photographs = [
        Photograph(key=title, image=b"", group="a", titles={"en": title, "eu": "gauza bat"})
        for title in (f"A {english[0]}", f"the {english[1]}s", "A thing without a concept")
    ]
    found = name_photographs(photographs, concepts)
    assert [one.photograph.key for one in found] == [f"A {english[0]}", f"the {english[1]}s"]
    for concept, one in enumerate(found):
        for lexicon in concepts.lexicons:
            answers = one.answers[lexicon.language.code]
            assert len(answers) == 10
            for name in (lexicon.names[concept], one.photograph.titles[lexicon.language.code]):
                assert answers.count(name) >= 3  # three equal answers score fully


def test_built_twice_gives_the_same_bytes(tmp_path: Path, packages: PackageFolder) -> None:
    lines: list[str] = []
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        built = build_photos(
            packages, folder, ["en", "eu"], num_concepts=NUM_CONCEPTS, report=lines.append
        )
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders
    )
    assert first == second
    assert len(first) == 8
    assert "21 photographs with texts in en, eu; 2 of them" in lines[0]
    photos, descriptions = built
    assert photos.num_photos == 19
    assert photos.num_items == {"capqa/title_check": 16, "mc/title": 15, "vqa/name": 1}
    assert descriptions.num_items == {"mc/description": 15}
    raw = json.loads(photos.manifest.read_text())
    assert raw["licence"] == "GPL-2.0-or-later AND GPL-3.0-or-later AND Unicode-3.0"
    assert raw["provenance"]["debian_packages"] == [
        "gcompris-qt-data_1.0_all.deb", "tuxpaint-stamps-default_1.0_all.deb",
    ]  # fmt: skip
    items = load_benchmark(photos.manifest)
    check_items(items, AskingConfig(prompt_style="bare"))
    described = load_benchmark(descriptions.manifest)
    check_items(described, AskingConfig(prompt_style="instructed"))
    with pytest.raises(ConfigError, match="without the option"):
        check_items(described, AskingConfig(prompt_style="bare"))


def test_a_base_language_other_than_english(tmp_path: Path, packages: PackageFolder) -> None:
    (built, _) = build_photos(packages, tmp_path / "out", ["eu"], num_concepts=NUM_CONCEPTS)
    items = load_benchmark(built.manifest)
    assert {item.language for item in items} == {"eu"}


def test_no_photograph_in_a_language_is_an_error(tmp_path: Path, packages: PackageFolder) -> None:
    with pytest.raises(DataError, match="no photograph has texts in all of en, es"):
        build_photos(packages, tmp_path / "out", ["en", "es"])


@pytest.mark.slow
@pytest.mark.packages
@pytest.mark.parametrize(("languages", "least"), [(["es", "eu"], 350), (["en", "cy"], 60)])
def test_the_real_packages_give_a_benchmark(
    tmp_path: Path, languages: list[str], least: int
) -> None:
    folder = DEFAULT_FOLDER.expanduser()
    for package in (GCOMPRIS.name, TUX_PAINT.name, "*cldr-annotations-full-"):
        if not any(folder.glob(f"**/{package}*")):
            pytest.skip(f"{package} is not in {folder}; run python -m data_prep.photographs once")
    assert command.main(["--out", str(tmp_path), "--languages", *languages]) == 0
    items = load_benchmark(tmp_path / f"{PHOTOS}.manifest.json", languages)
    check_items(items, AskingConfig(prompt_style="bare"))
    assert len({item.image_key for item in items}) >= least
    has_sentences = (tmp_path / f"{DESCRIPTIONS}.manifest.json").exists()
    assert has_sentences == ("cy" not in languages)

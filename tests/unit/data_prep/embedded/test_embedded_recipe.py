"""The embedded data's generator without the packages: questions, scenes, votes and errors."""

import dataclasses
import functools
import io
import shutil
import tarfile
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import DataError
from core.rng import named_rng
from data_prep.embedded import __main__ as embedded
from data_prep.embedded import running_text
from data_prep.embedded import wordings as languages
from data_prep.embedded.concepts import (
    Catalogue,
    Lexicon,
    categories_overlap,
    load_catalogue,
    read_table,
)
from data_prep.embedded.drawings import (
    DEV_STYLE,
    TEST_STYLE,
    TRAIN_STYLES,
    Painter,
    Style,
    StyledIcon,
)
from data_prep.embedded.packages import NpmLock, PackageFolder, read_lock
from data_prep.embedded.planning.benchmark import BenchmarkPlanner
from data_prep.embedded.planning.benchmark_items import word_item
from data_prep.embedded.planning.conversations import (
    make_chat,
    scene_questions,
    single_questions,
    word_turns,
)
from data_prep.embedded.planning.image_questions import scene_image_questions
from data_prep.embedded.planning.questions import (
    AnswerKind,
    Asker,
    Question,
    word_answer,
    word_question,
)
from data_prep.embedded.planning.scenes import Scene, SceneMaker, balanced_patterns, draw_pattern
from data_prep.embedded.planning.training_images import TrainingPlanner, choose_withheld
from data_prep.embedded.votes import Voter
from data_prep.embedded.wordings import QuestionKind, load_language, load_languages
from data_prep.shards.writer import ShardSample, write_shards

SVG = '<rect width="16" height="16" fill="{}"/>'


class FakePackages(PackageFolder):
    """Packages with an invented name for every concept and a square for every icon.

    Basque has its real names, because its table of forms is checked against them.
    """

    def __init__(self, tmp_path):
        super().__init__(tmp_path)

    def npm_names(self, name):
        key = "annotationsDerived" if "derived" in name else "annotations"
        return [f"{key}/{code}/annotations.json" for code in ("en", "eu", "es")]

    def npm_json(self, name, member):
        if member == "icons.json":
            return {"width": 16, "height": 16, "icons": {"red": {"body": SVG.format("red")}}} | {
                "aliases": {"rouge": {"parent": "red"}}
            }
        key, code, _ = member.split("/")
        entries = {} if "Derived" in key else {character(c): entry(c, code) for c in read_table()}
        return {key: {"annotations": entries}}


def character(concept):
    return "".join(chr(int(code, 16)) for code in concept.codepoints.split("-"))


@functools.cache
def basque():
    return load_language("eu")


def entry(concept, code):
    name = f"{code}x{concept.codepoints.replace('-', '')}"
    if code == "eu":
        name = basque().forms[concept.codepoints]["name"]
    return {"tts": [name], "default": [name, f"kw1{name}", f"kw2{name}", f"kw3{name}"]}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    return FakePackages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def asker(packages):
    return Asker(load_catalogue(packages, load_languages(["en", "eu"]), 240))


# --- the table ---


def test_the_table_is_complete():
    table = read_table()
    assert len(table) == 240
    assert len({concept.codepoints for concept in table}) == 240
    for concept in table:
        assert {TEST_STYLE.value, DEV_STYLE.value} <= set(concept.icons)
        assert sum(style.value in concept.icons for style in TRAIN_STYLES) >= 3


def test_held_out_styles_are_not_trained_on():
    assert not {TEST_STYLE, DEV_STYLE} & set(TRAIN_STYLES)
    assert {style.package for style in Style} <= set(read_lock())


# --- languages ---


@pytest.mark.parametrize("code", ["en", "eu", "es"])
def test_a_language_file_has_wordings_for_every_kind(code, packages):
    catalogue = load_catalogue(packages, load_languages([code]), 40)
    asker, lexicon = Asker(catalogue), catalogue.lexicons[0]
    maker = SceneMaker(asker, set())
    kinds = set()
    for number in range(60):
        chat = make_chat(asker, maker, named_rng(0, number))
        for question in chat.questions:
            kinds.add(question.kind)
            assert "{" not in word_question(question, lexicon)
            assert word_answer(question, lexicon)
    elsewhere = {
        QuestionKind.CAPTION_CHECK,
        QuestionKind.CAPTION_CHECK_UNSEEN,
        QuestionKind.DESCRIPTION,
    }
    assert kinds == set(QuestionKind) - elsewhere


def test_the_error_for_a_missing_language_file_names_the_file():
    with pytest.raises(DataError, match=r"languages/mt/data\.yaml.*data_prep\.new_language mt"):
        load_language("mt")


def test_a_language_that_cldr_lacks_is_an_error(packages):
    wrong = dataclasses.replace(load_language("eu"), cldr="euu")
    with pytest.raises(DataError, match=r"unknown CLDR language 'euu'\. Did you mean 'eu'"):
        load_catalogue(packages, (wrong,), 12)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"yes": bai\n', "", "'yes' is missing"),
        ('"yes": bai\n', '"yes":\n"yes": bai\n', "'yes' is repeated"),
        ("numbers: [bat, bi, hiru, lau]", "numbers:", "numbers is empty; expected a list"),
        ("cldr: eu", "cdlr: eu", "unknown key 'cdlr'. Did you mean 'cldr'"),
        ("numbers: [bat, bi, hiru, lau]", "numbers: [bat]", "expected 4 words"),
        ("Zer dago {place}?", "Zer dago {where}?", r"has the placeholders \['where'\]"),
        ("  tool: [tresna, tresna]\n", "", "'categories.tool' is missing"),
        ("  tool: [tresna, tresna]\n", "  tool: tresna\n", "expected a list"),
        ("  tool: [tresna, tresna]\n", "  tool: [tresna]\n", "expected a list of two phrases"),
        ("{name_partitive}", "{name_ergative}", r"'name_ergative'.*need forms\.tsv"),
        ("  above: gainean\n", "  above: [gainean]\n", "its singular and its plural"),
    ],
)
def test_an_invalid_language_file_is_an_error(tmp_path, monkeypatch, old, new, message):
    text = (languages.FOLDER / "eu" / "data.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "eu").mkdir()
    (tmp_path / "eu" / "data.yaml").write_text(text.replace(old, new), encoding="utf-8")
    shutil.copy(languages.FOLDER / "eu" / "forms.tsv", tmp_path / "eu")
    monkeypatch.setattr(languages, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=message):
        load_language("eu")


def test_words_without_quotes_stay_words(tmp_path, monkeypatch):
    text = (languages.FOLDER / "eu" / "data.yaml").read_text(encoding="utf-8")
    for old, new in (
        ('"yes": bai', "yes: on"),
        ('"no": ez', "no: no"),
        ("cldr: eu", "cldr: no"),
        ("numbers: [bat, bi, hiru, lau]", "numbers: [en, to, null, 1e3]"),
        ("  tool: [tresna, tresna]\n", "  tool: [off, ~]\n"),
        ("  above: gainean\n", "  above: [y, n]\n"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "eu").mkdir()
    (tmp_path / "eu" / "data.yaml").write_text(text, encoding="utf-8")
    shutil.copy(languages.FOLDER / "eu" / "forms.tsv", tmp_path / "eu")
    monkeypatch.setattr(languages, "FOLDER", tmp_path)
    language = load_language("eu")
    assert (language.yes, language.no, language.cldr) == ("on", "no", "no")
    assert language.numbers == ("en", "to", "null", "1e3")
    assert language.categories["tool"] == ("off", "~")
    assert language.relations["above"] == languages.Wording(singular="y", plural="n")


# --- names in sentences ---

# Heads whose final -a belongs to the stem, and which therefore keep it in every form.
STEM_IN_A = """
aingura koroa fabrika gitarra muxika arrosa xiringa gaileta tulipa dutxa karpa koala noria linterna
poltsa panda kopa bola anbulantzia telebista sorta mandarina maluta tronpeta dortoka kamera giltza
makina eliza pizza kandela banana gaztaina eskola gorbata txita bonbilla alberjinia txintxeta
hirusta piruleta balea hanburgesa brotxa armiarma motozikleta anana labana sandia kanoa tarta
txokolatina laranja arrautza sofa koilara pinpilinpauxa tresnak
"""


def basque_forms(name, *, is_plural):
    """Decline a definite name by rule: (genitive, partitive)."""
    in_a = name.replace("-", " ").split()[-1] in STEM_IN_A.split()
    genitive = name.removesuffix("ak") + "en" if is_plural else name + "ren"
    stem = name.removesuffix("k") if is_plural else name
    stem = stem if in_a else stem.removesuffix("a")
    return genitive, stem + ("rik" if stem[-1] in "aeiou" else "ik")


def test_basque_forms_follow_the_rule():
    language = load_language("eu")
    assert len(language.forms) == 240
    for codepoints, forms in language.forms.items():
        is_plural = codepoints in language.plural
        assert forms["name"].endswith("ak" if is_plural else "a")
        expected = basque_forms(forms["name"], is_plural=is_plural)
        assert (forms["genitive"], forms["partitive"]) == expected
        assert language.names.get(codepoints, forms["name"]) == forms["name"]


def question_texts(asker, codepoints, kind, wording, **more):
    (number,) = (n for n, c in enumerate(asker.catalogue.concepts) if c.codepoints == codepoints)
    question = Question(
        kind=kind,
        wording=wording,
        answer_kind=AnswerKind.YES_NO,
        answer=1,
        concepts=(number,),
        **more,
    )
    return tuple(word_question(question, lexicon) for lexicon in asker.catalogue.lexicons)


@pytest.mark.parametrize(
    ("asked", "basque", "english"),
    [
        (("2702", "is_shown", 0, ""), "Ageri al dira guraizeak irudian?", "Are these in"),
        (("1f34e", "is_shown", 0, ""), "Ageri al da sagar gorria irudian?", "Is this in"),
        (("2702", "is_shown", 1, ""), "Ba al dago guraizerik irudian?", "Are these there in"),
        (("1f4da", "caption_check_unseen", 0, ""), "Irudian ageri al dira liburuak?", "do these"),
        (("1f3e5", "count_name", 1, ""), "Zenbat aldiz ikusten da ospitalea irudian?", "can this"),
        (("1f4da", "count_name", 0, ""), "Zenbat aldiz ageri dira liburuak irudian?", "do these"),
        (("1f33f", "neighbour", 0, "left_of"), "Zer dago belarraren ezkerrean?", "left of this: "),
        (("1f453", "neighbour", 1, "above"), "Zer ageri da betaurrekoen gainean?", "above these: "),
    ],
)  # fmt: skip
def test_questions_agree_with_the_number_of_the_name(asker, asked, basque, english):
    codepoints, kind, wording, place = asked
    texts = question_texts(asker, codepoints, QuestionKind(kind), wording, place=place)
    assert texts[1] == basque
    assert english in texts[0]


def test_a_table_of_forms_that_differs_from_the_names_is_an_error(packages, monkeypatch):
    eu = load_language("eu")
    wrong = dataclasses.replace(eu, forms=eu.forms | {"1f34e": {"name": "sagarra"}})
    with pytest.raises(DataError, match=r"forms\.tsv: 1f34e is 'sagarra'.*'sagar gorria'"):
        load_catalogue(packages, (wrong,), 240)


def test_no_basque_name_is_a_coordination():
    """A name with "eta" is ambiguous in a list with "ala"."""
    assert not [f["name"] for f in load_language("eu").forms.values() if " eta " in f["name"]]


# --- questions ---


@given(number=st.integers(0, 239), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_questions_about_a_concept_are_correct_and_fair(asker, number, seed):
    own = asker.catalogue.concepts[number].category
    for question in single_questions(asker, number, named_rng(seed)):
        if question.kind is QuestionKind.IS_SHOWN:
            assert (question.concepts[0] == number) == bool(question.answer)
            fair = not asker.catalogue.confusable[number, question.concepts[0]]
            assert fair or bool(question.answer)
        if question.kind is QuestionKind.IS_CATEGORY:
            overlap = categories_overlap(own, question.category)
            assert overlap == bool(question.answer)
        if question.kind is QuestionKind.CHOICE:
            assert question.answer == number
            assert len(set(question.concepts)) == 4
            wrong = [concept for concept in question.concepts if concept != number]
            assert not asker.catalogue.confusable[number, wrong].any()
            kinds = {asker.catalogue.concepts[concept].category for concept in question.concepts}
            # Either all categories differ or all are equal; otherwise the odd one could be guessed.
            assert len(kinds) in (1, 4)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_questions_about_a_scene_have_one_answer(asker, seed):
    rng = named_rng(seed)
    scene = SceneMaker(asker, set()).make(draw_pattern(rng), rng)
    asked = scene_questions(asker, scene, rng)
    assert len({(q.kind, q.concepts, q.place) for q in asked}) == len(asked)
    for question in asked:
        if question.kind is QuestionKind.COUNT_THINGS:
            assert question.answer == len(scene.things)
        if question.kind is QuestionKind.COUNT_NAME:
            assert question.answer == scene.things.count(question.concepts[0])
        if question.kind is QuestionKind.POSITION:
            assert (question.place, question.answer) in scene.places()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_questions_about_a_training_scene_name_everything_in_it(asker, seed):
    rng = named_rng(seed)
    scene = SceneMaker(asker, set()).make(draw_pattern(rng), rng)
    asked = scene_image_questions(asker, scene, rng)
    places = [q for q in asked if q.kind is QuestionKind.POSITION]
    assert sorted(int(q.answer) for q in places) == sorted(scene.counts)
    assert all((q.place, q.answer) in scene.places() for q in places)
    shown = [q for q in asked if q.kind is QuestionKind.IS_SHOWN]
    assert sorted(int(q.answer) for q in shown) == [0, 1]
    for question in asked:
        if question.answer_kind is AnswerKind.YES_NO:
            assert (question.concepts[0] in scene.counts) == bool(question.answer)
        if question.kind is QuestionKind.COUNT_THINGS:
            assert question.answer == len(scene.things)
        if question.kind is QuestionKind.COUNT_NAME:
            assert question.answer == scene.counts[question.concepts[0]]
        if question.kind is QuestionKind.NEIGHBOUR:
            facts = (question.place, question.concepts[0], question.answer)
            assert facts in scene.neighbours()


@pytest.mark.parametrize("num_concepts", [12, 40, 240])
def test_withheld_names_are_distinct_and_spread_over_the_categories(packages, num_concepts):
    catalogue = load_catalogue(packages, load_languages(["en", "eu"]), num_concepts)
    withheld = choose_withheld(catalogue, 0)
    assert len(withheld) == max(1, round(num_concepts / 10))
    assert catalogue.confusable[list(withheld)].sum() == len(withheld)
    counts = Counter(catalogue.concepts[c].category for c in withheld)
    distinct = np.flatnonzero(catalogue.confusable.sum(axis=1) == 1)
    sizes = Counter(catalogue.concepts[c].category for c in distinct)
    for category, size in sizes.items():
        assert abs(counts[category] - len(withheld) * size / len(distinct)) <= 1
    assert len({choose_withheld(catalogue, seed) for seed in range(4)}) > 1


def test_training_images_never_show_what_is_reserved_or_withheld(packages):
    catalogue = load_catalogue(packages, load_languages(["en", "eu"]), 40)
    planner = TrainingPlanner(catalogue, seed=0, scenes_per_round=36)
    rounds = planner.rounds(2)
    withheld = set(planner.withheld)
    for images in rounds:
        shown = Counter(c for image in images if image.is_scene for c in image.scene.counts)
        assert set(shown).isdisjoint(withheld)
        assert max(shown.values()) - min(shown.values()) <= 2
        for image in images:
            for question in image.questions:
                assert withheld.isdisjoint(question.concepts)
    keys = [image.key for images in rounds for image in images]
    assert len(keys) == len(set(keys)) == 2 * (2 * 36 + 36)
    for image in planner.withheld_images(2):
        assert withheld & set(image.scene.counts)
    copies = Counter(
        len(combo)
        for combo in planner.combinations([image for images in rounds for image in images])
        if len(set(combo)) == 1
    )
    assert all(count <= 20 for count in copies.values())  # half of the concepts


def test_ambiguous_places_are_not_asked_about():
    scene = Scene(quadrants=(7, None, 8, 9))
    places = dict(scene.places())
    assert places["top"] == 7
    assert places["right"] == 9
    assert places["bottom_left"] == 8
    assert "left" not in places
    assert "bottom" not in places
    assert ("right_of", 7, 9) in scene.neighbours()
    assert ("left_of", 9, 7) not in scene.neighbours()
    assert ("above", 9, 7) in scene.neighbours()


def test_languages_have_the_same_turns(asker):
    lexicons = asker.catalogue.lexicons
    asked = single_questions(asker, 3, named_rng(1))
    en, eu = (word_turns("<image>", asked, lexicon)["messages"] for lexicon in lexicons)
    assert [turn["role"] for turn in en] == [turn["role"] for turn in eu]
    assert en[0]["content"].startswith("<image>\n")
    assert en != eu


def test_patterns_follow_their_weights():
    counts = np.bincount([sum(pattern) for pattern in balanced_patterns(133)], minlength=5)
    assert counts[1:4].min() >= 25


# --- benchmark ---


@pytest.mark.parametrize("num_concepts", [12, 40, 240])
def test_benchmark_scenes_are_new_and_answers_balanced(packages, num_concepts):
    catalogue = load_catalogue(packages, load_languages(["en", "eu"]), num_concepts)
    asker = Asker(catalogue)
    maker = SceneMaker(asker, set())
    trained = [maker.make(draw_pattern(named_rng(n)), named_rng(n)) for n in range(num_concepts)]
    seen = {combo for scene in trained for combo in scene.combinations}
    planner = BenchmarkPlanner(asker, seen, "test")
    images = planner.images(0)
    assert {len(set(combo)) for combo in seen} == {1, 2}
    assert not seen & {combo for p in images if p.is_scene for combo in p.scene.combinations}
    voters = tuple(Voter(catalogue, lexicon) for lexicon in catalogue.lexicons)
    items = [word_item(n, asked, voters) for n, asked in enumerate(planner.questions(images))]
    yes_no = [item["answers"]["eu"][0] for item in items if item["answer_type"] == "yes/no"]
    assert yes_no.count("bai") == yes_no.count("ez") > 0
    by_question = defaultdict(list)
    for item in items:
        if item["answer_type"] == "yes/no" and item["question_type"] != "is_category":
            by_question[item["benchmark"], item["question"]["eu"]].append(item["answers"]["eu"][0])
    assert all(answers.count("bai") == answers.count("ez") for answers in by_question.values())
    numbers = [item["answers"]["eu"][0] for item in items if item["answer_type"] == "number"]
    assert len({numbers.count(word) for word in ("bat", "bi", "hiru", "lau")}) == 1


def test_every_unseen_wording_of_the_caption_check_is_a_question_type(packages):
    catalogue = load_catalogue(packages, load_languages(["en", "eu"]), 240)
    planner = BenchmarkPlanner(Asker(catalogue), set(), "test")
    asked = [q for q in planner.questions(planner.images(0)) if q.benchmark == "capqa"]
    voters = tuple(Voter(catalogue, lexicon) for lexicon in catalogue.lexicons)
    items = [word_item(n, question, voters) for n, question in enumerate(asked)]
    starts = defaultdict(set)
    for item in items:
        starts[item["question_type"]].add(
            item["question"]["en"].split(" this")[0].split(" these")[0]
        )
    assert Counter(item["question_type"] for item in items) == {
        "caption_check": 80,
        "caption_check_unseen_1": 80,
        "caption_check_unseen_2": 80,
    }
    assert starts["caption_check_unseen_1"] <= {"In the picture, does", "In the picture, do"}
    assert starts["caption_check_unseen_2"] == {"In the picture, can you see"}
    assert not any(start.startswith("In the picture") for start in starts["caption_check"])


def test_associated_words_get_no_votes(packages):
    """Words such as "eye" for glasses are keywords of CLDR, but they do not name the thing."""
    eu = load_language("eu")
    concepts = tuple(c for c in read_table() if c.codepoints in ("1f453", "1f382", "2693"))
    keywords = {"1f453": ("begi",), "1f382": ("ospakizun", "pastel"), "2693": ("ontzi",)}
    lexicon = Lexicon(
        language=eu,
        names=tuple(eu.forms[c.codepoints]["name"] for c in concepts),
        keywords=tuple(keywords[c.codepoints] for c in concepts),
        codepoints=tuple(c.codepoints for c in concepts),
    )
    none = np.zeros((3, 3), dtype=bool)
    catalogue = Catalogue(concepts=concepts, lexicons=(lexicon,), confusable=none, left_out=())
    voter = Voter(catalogue, lexicon)
    answers = {c.codepoints: set(voter.name_answers(n)) for n, c in enumerate(concepts)}
    assert answers == {
        "1f453": {"betaurrekoak"},
        "1f382": {"urtebetetze-tarta", "pastel"},
        "2693": {"aingura"},
    }


def test_votes_prefer_synonym_then_shared_word_then_others():
    eu = dataclasses.replace(load_language("eu"), synonyms={"1f98b": ("tximeleta",)})
    concepts = tuple(c for c in read_table() if c.codepoints in ("1f98b", "1f34e"))
    words = {
        "1f98b": ("pinpilinpauxa", ("intsektu", "polit", "hegodun")),
        "1f34e": ("sagar gorria", ("fruitu", "gorri", "landare", "sagar")),
    }
    lexicon = Lexicon(
        language=eu,
        names=tuple(words[c.codepoints][0] for c in concepts),
        keywords=tuple(words[c.codepoints][1] for c in concepts),
        codepoints=tuple(c.codepoints for c in concepts),
    )
    none = np.zeros((2, 2), dtype=bool)
    catalogue = Catalogue(concepts=concepts, lexicons=(lexicon,), confusable=none, left_out=())
    voter = Voter(catalogue, lexicon)
    answers = {c.codepoints: voter.name_answers(n) for n, c in enumerate(concepts)}
    assert answers["1f34e"] == ["sagar gorria"] * 6 + ["sagar"] * 4
    assert answers["1f98b"] == ["pinpilinpauxa"] * 4 + ["tximeleta"] * 4 + ["intsektu", "hegodun"]


# --- images, packages, shards ---


def test_drawing_is_deterministic(packages):
    pytest.importorskip("resvg_py", reason="resvg-py is not installed: pip install -e .[data]")
    icon = StyledIcon(style=Style.NOTO, icon="rouge")
    first, second = (Painter(packages).single(icon, named_rng(5)) for _ in range(2))
    assert first == second
    assert first != Painter(packages).single(icon, named_rng(6))
    with pytest.raises(DataError, match="unknown icon of noto 'blue'"):
        Painter(packages).single(StyledIcon(style=Style.NOTO, icon="blue"), named_rng(5))


def test_a_package_with_another_hash_is_rejected(tmp_path):
    lock = read_lock()["cldr-annotations-full"]
    (tmp_path / lock.file_name).write_bytes(b"not the archive")
    with pytest.raises(DataError, match=r"sha256 .*, expected .*delete the file"):
        PackageFolder(tmp_path).npm_archive(lock.name)


def test_a_package_that_cannot_be_downloaded_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(DataError, match=r"npm is not installed.*--packages"):
        PackageFolder(tmp_path).npm_archive("cldr-annotations-full")
    with pytest.raises(DataError, match="apt-get is not installed"):
        PackageFolder(tmp_path).debian_archive("libreoffice-help-eu")


def test_archives_have_the_file_names_of_npm_pack():
    lock = NpmLock(name="@iconify-json/noto", version="1.2.9", sha256="", licence="")
    assert lock.file_name == "iconify-json-noto-1.2.9.tgz"


def make_deb(path, pages):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
        for name, text in pages.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    content = b"!<arch>\n"
    for name, data in (("debian-binary", b"2.0"), ("data.tar.xz", buffer.getvalue())):
        content += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(data):<10}`\n".encode()
        content += data + b"\n" * (len(data) % 2)
    path.write_bytes(content)


def test_help_pages_align_by_paragraph(tmp_path):
    page = '<p>outside</p><div id="DisplayArea">{}</div>'
    texts = {"es": ("<h1>Uno</h1><p>Dos <b>y</b>\n m\u00e1s</p>", "<p>x</p><p>y</p>")} | {
        "eu": ("<h1>Bat</h1><p>Bi eta&nbsp;gehi\u00adago</p>", "<p>z</p>")
    }
    for code, (aligned, broken) in texts.items():
        folder = f"usr/share/libreoffice/help/{code}/text"
        pages = {f"{folder}/a.html": page.format(aligned), f"{folder}/b.html": page.format(broken)}
        make_deb(tmp_path / f"libreoffice-help-{code}_1_all.deb", pages)
    pages = running_text.read_pages(PackageFolder(tmp_path), load_languages(["es", "eu"]))
    assert pages == {"a.html": [("Uno", "Bat"), ("Dos y m\u00e1s", "Bi eta gehiago")]}
    (document,) = running_text.documents(pages)
    assert document.texts == ("Uno\nDos y m\u00e1s", "Bat\nBi eta gehiago")


def test_equal_samples_give_equal_shards(tmp_path):
    samples = [ShardSample(key=key, content={"x": "ñ"}, image=b"i") for key in ("b", "a", "c")]
    for name in ("one", "two"):
        entries = write_shards(tmp_path / name, "s", samples, per_shard=2)
        assert [entry.num_samples for entry in entries] == [2, 1]
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


# --- command line ---


def test_errors_are_printed_without_a_traceback(tmp_path, capsys):
    arguments = ["--languages", "mt", "--out", str(tmp_path), "--packages", str(tmp_path)]
    assert embedded.main(arguments) == 2
    assert "mt/data.yaml" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())

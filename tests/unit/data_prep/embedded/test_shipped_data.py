"""The shipped data are valid, parallel and balanced, and training has no benchmark image."""

import hashlib
import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import webdataset
from PIL import Image

from data_prep.embedded.wordings import QuestionKind, load_language
from datamodules.shards.manifest import Modality, load_manifest, shard_path, verify
from datamodules.shards.reader import ShardReader

ROOT = Path(__file__).resolve().parents[4]
FOLDER = ROOT / "data" / "embedded"
MANIFESTS = sorted(
    path for path in FOLDER.glob("*.manifest.json") if not path.name.startswith("benchmark_dev")
)
MAX_BYTES = 24_000_000
LANGUAGES = ("en", "eu")


def read_source(name):
    path = FOLDER / f"{name}.manifest.json"
    for entry in load_manifest(path).shards:
        reader = ShardReader(shard_path(path, entry))
        for row in range(len(reader)):
            content, image = reader.read(row)
            yield json.loads(content), image


@pytest.fixture(scope="module")
def train():
    return [*read_source("emoji_instruct_eu"), *read_source("withheld_instruct_eu")]


@pytest.fixture(scope="module")
def items():
    return [item for sample, _ in read_source("benchmark_test") for item in sample["items"]]


@pytest.fixture(scope="module")
def withheld_items():
    return [item for sample, _ in read_source("benchmark_withheld") for item in sample["items"]]


@pytest.fixture(scope="module")
def names(train):
    """Language -> every name, from the captions of single concepts."""
    return {
        code: {
            sample["caption"][code]["messages"][1]["content"]
            for sample, _ in train
            if sample["id"].startswith("single-")
        }
        for code in LANGUAGES
    }


def test_every_source_exists():
    names = {path.name.removesuffix(".manifest.json") for path in MANIFESTS}
    kinds = (
        "emoji_caption", "emoji_instruct", "round_caption", "round_instruct", "text", "chat",
        "knowledge", "withheld_caption", "withheld_instruct",
    )  # fmt: skip
    culture = {"culture_test", "culture_instruct_en", "culture_instruct_eu"}
    benchmarks = {"benchmark_test", "benchmark_withheld"}
    assert names == benchmarks | culture | {f"{k}_{code}" for k in kinds for code in LANGUAGES}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_match_their_shards(path):
    manifest = verify(path, deep=True)
    assert manifest.licence
    assert manifest.provenance


def test_everything_fits_in_24_megabytes():
    sizes = [p.stat().st_size for p in FOLDER.glob("*") if p.is_file() and "dev" not in p.name]
    assert sum(sizes) <= MAX_BYTES


@pytest.mark.parametrize("tar", sorted(FOLDER.glob("*.tar")), ids=lambda tar: tar.name)
def test_webdataset_reads_every_shard(tar):
    count = 0
    for sample in webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False):
        assert json.loads(sample["json"])["id"] == sample["__key__"]
        if "webp" in sample:
            Image.open(io.BytesIO(sample["webp"])).verify()
        count += 1
    assert count == len(ShardReader(tar))


@pytest.mark.slow
def test_no_benchmark_image_is_in_training(train):
    def digests(images):
        files = {hashlib.sha256(image).hexdigest() for image in images}
        pixels = {
            hashlib.sha256(Image.open(io.BytesIO(image)).convert("RGB").tobytes()).hexdigest()
            for image in images
        }
        return files, pixels

    seen = digests([image for _, image in train])
    benchmarks = [*read_source("benchmark_test"), *read_source("benchmark_withheld")]
    held_out = digests([image for _, image in benchmarks])
    assert len(seen[0]) == len(seen[1]) == len(train)  # no two images are alike
    assert not seen[0] & held_out[0]
    assert not seen[1] & held_out[1]


def test_training_has_no_image_of_a_held_out_style():
    styles = {"noto", "noto-v1", "emojione", "fxemoji", "streamline"}
    for name in ("emoji_instruct_eu", "withheld_instruct_eu"):
        statistics = load_manifest(FOLDER / f"{name}.manifest.json").statistics
        assert set(statistics["styles"]) == styles


@pytest.mark.parametrize(
    "kind", ["emoji_instruct", "withheld_instruct", "chat", "text", "knowledge"]
)
def test_languages_are_parallel(kind):
    manifests = [load_manifest(FOLDER / f"{kind}_{code}.manifest.json") for code in LANGUAGES]
    assert manifests[0].shards == manifests[1].shards
    for sample, _ in read_source(f"{kind}_eu"):
        assert sample["parallel_id"]
        for record in set(sample) - {"id", "parallel_id"}:
            roles = {
                code: [message["role"] for message in sample[record][code]["messages"]]
                for code in LANGUAGES
            }
            assert roles["en"] == roles["eu"]
            contents = [
                m["content"] for code in LANGUAGES for m in sample[record][code]["messages"]
            ]
            assert all(contents)


def blanks_of(language, names):
    """Return the texts that may fill each placeholder, for the given names."""
    forms = list(language.forms.values()) or [{"name": name} for name in names]
    forms = [row for row in forms if row["name"] in names]
    assert {row["name"] for row in forms} == names
    blanks = {f"name_{column}": {row[column] for row in forms} for column in forms[0]}
    blanks |= dict.fromkeys("abcd", names) | {"name": names}
    blanks["category"] = {phrase for _, phrase in language.categories.values()}
    blanks["place"] = {phrase for phrase, _ in language.places.values()}
    relations = language.relations.values()
    return blanks | {"relation": {phrase for r in relations for phrase in (r.singular, r.plural)}}


def pattern(template, blanks):
    """Return a regular expression for a template, which matches names exactly as in the data."""
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(
            f"({'|'.join(map(re.escape, sorted(blanks[part], key=len, reverse=True)))})"
            if number % 2
            else re.escape(part)
            for number, part in enumerate(parts)
        )
    )


def wordings(language):
    kinds = [kind for kind in QuestionKind if kind is not QuestionKind.DESCRIPTION]  # photographs
    return [wording for kind in kinds for wording in language.questions[kind]]


def questions(code, train, items):
    yield from (item["question"][code] for item in items)
    chats = [sample for sample, _ in read_source(f"chat_{code}")]
    for record, samples in (("instruct", [sample for sample, _ in train]), ("chat", chats)):
        for sample in samples:
            for number, message in enumerate(sample[record][code]["messages"]):
                if message["role"] == "user":
                    text = message["content"]
                    yield text.split("\n", 1)[1] if number == 0 else text


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_question_has_a_documented_wording(code, names, train, items):
    language = load_language(code)
    blanks = blanks_of(language, names[code])
    templates = {t for wording in wordings(language) for t in (wording.singular, wording.plural)}
    regexes = {template: pattern(template, blanks) for template in sorted(templates)}
    seen = Counter()
    for question in questions(code, train, items):
        matches = [template for template, regex in regexes.items() if regex.fullmatch(question)]
        assert matches, question
        seen.update(matches)
    documented = (ROOT / "docs" / "results" / "data-cards.md").read_text(encoding="utf-8")
    for wording in wordings(language):
        assert seen[wording.singular] > 0
        assert wording.singular in documented
        assert wording.plural in documented


@pytest.mark.parametrize("code", LANGUAGES)
def test_no_common_answer_scores_well(code, items):
    limits = {"other": 0.12, "yes/no": 0.51, "number": 0.30}
    by_type = defaultdict(Counter)
    for item in items:
        if item["benchmark"] != "mc":
            by_type[item["answer_type"]][item["answers"][code][0]] += 1
    assert set(by_type) == set(limits)
    for answer_type, answers in by_type.items():
        assert max(answers.values()) / answers.total() <= limits[answer_type]


@pytest.mark.parametrize("code", LANGUAGES)
def test_wordings_agree_with_the_number_of_the_name(code, names, train, items):
    language = load_language(code)
    plural = {
        sample["caption"][code]["messages"][1]["content"]
        for sample, _ in train
        if sample["id"].startswith("single-") and sample["id"].rsplit("-", 1)[1] in language.plural
    }
    assert {"eu": "guraizeak", "en": "scissors"}[code] in plural
    asked = list(questions(code, train, items))
    with_number = [wording for wording in wordings(language) if wording.singular != wording.plural]
    for wording in with_number:
        for template, wrong in (
            (wording.singular, plural),
            (wording.plural, names[code] - plural),
        ):
            regex = pattern(template, blanks_of(language, wrong))
            assert not [question for question in asked if regex.fullmatch(question)]
    regexes = [pattern(wording.plural, blanks_of(language, plural)) for wording in with_number]
    assert sum(any(regex.fullmatch(question) for regex in regexes) for question in asked) > 20


def test_yes_and_no_are_equally_frequent_for_each_question(items):
    answers = defaultdict(Counter)
    for item in items:
        if item["question_type"].startswith(("is_shown", "caption_check")):
            answers[item["question_type"], item["question"]["eu"]][item["answers"]["eu"][0]] += 1
    assert len(answers) > 150
    assert all(counts["bai"] == counts["ez"] for counts in answers.values())


def test_positions_and_names_of_right_choices_are_uniform(items):
    choices = [item for item in items if item["benchmark"] == "mc"]
    places = Counter(item["correct_choice"] for item in choices)
    assert max(places.values()) / len(choices) <= 0.27
    for code in LANGUAGES:
        right = Counter(item["choices"][code][item["correct_choice"]] for item in choices)
        assert set(right.values()) == {1}
        assert all(len(set(item["choices"][code])) == 4 for item in choices)


def test_open_questions_have_ten_answers_led_by_the_name(items, names):
    for item in items:
        if item["benchmark"] == "vqa":
            for code in LANGUAGES:
                votes = Counter(item["answers"][code])
                assert votes.total() == 10
                if item["question_type"] in ("name", "position", "neighbour"):
                    first = item["answers"][code][0]
                    assert first in names[code]
                    assert votes[first] >= 4


def test_benchmark_manifest_names_both_languages():
    manifest = load_manifest(FOLDER / "benchmark_test.manifest.json")
    assert manifest.modality is Modality.BENCHMARK
    assert manifest.language == "en,eu"


def test_the_second_benchmark_asks_for_the_withheld_names_alone(items, withheld_items):
    def names_of(found):
        wanted = ("name", "position", "neighbour")
        return {i["answers"]["eu"][0] for i in found if i["question_type"] in wanted}

    withheld = {
        sample["caption"]["eu"]["messages"][1]["content"]
        for sample, _ in read_source("withheld_caption_eu")
        if sample["id"].startswith("single-")
    }
    assert names_of(withheld_items) == withheld
    assert not names_of(items) & withheld
    assert {item["benchmark"] for item in withheld_items} == {"vqa", "mc", "capqa"}

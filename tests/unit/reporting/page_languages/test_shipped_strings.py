"""The shipped strings files: complete for both pages, without lost entries, applied to a report."""

import ast
import functools
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from jinja2 import Environment

import reporting
from core.errors import ConfigError
from reporting import build
from reporting.comparison.differences import paired_scores
from reporting.comparison.page import build_comparison, render_comparison
from reporting.comparison.sides import load_sides
from reporting.page_languages.page_strings import known_page_languages, load_page_strings
from reporting.page_languages.translated_page import translate_page
from reporting.records import load_grid
from reporting.series import view_of
from tests.support import fake_grid

REPOSITORY = Path(reporting.__file__).parents[1]
TEMPLATES = ("reporting/page.html", "reporting/comparison/comparison.html")
SOURCES = ("reporting", "evaluation", "pipeline/store", "experiments/grids")
LANGUAGES = [code for code in known_page_languages() if code != "en"]
_GAP = "\0"
"""Stands for an expression in a template or source."""
_WINDOW = 3
_COMPOSED = re.compile(r"trainings? per (first |second )?cell$|^about \{seeds")
"""Entries whose texts are put together from single words."""


def static_texts(template: str) -> Iterator[str]:
    """Texts of a template between its tags and expressions, split into sentences."""
    source = (REPOSITORY / template).read_text(encoding="utf-8")
    tokens = [
        value if kind == "data" else _GAP if kind in ("variable_begin", "block_begin") else ""
        for _, kind, value in Environment().lex(source)
    ]
    text = re.sub(r"<(script|style|code)>.*?</\1>", _GAP, "".join(tokens), flags=re.DOTALL)
    attributes = re.findall(r' (?:title|aria-label|alt)="([^"]*)"', text)
    texts = re.split(rf"{_GAP}|<[^>]*>", text)
    texts += [part for value in attributes for part in value.split(_GAP)]
    for part in texts:
        for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(unescape(part).split())):
            if re.search(r"[A-Za-z]{2}", sentence):
                yield sentence.strip(" .,:;()%")


@functools.cache
def source_texts() -> str:
    """Texts in the code and templates behind the pages, with gaps for values."""
    found = [(REPOSITORY / "reporting" / "hypotheses.yaml").read_text(encoding="utf-8")]
    for template in TEMPLATES:
        found += static_texts(template)
        tokens = Environment().lex((REPOSITORY / template).read_text(encoding="utf-8"))
        found += [value for _, kind, value in tokens if kind == "string"]
    for folder in SOURCES:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (
                        str(value.value) if isinstance(value, ast.Constant) else _GAP
                        for value in node.values
                    )
                    found.append("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"\{\w+\}", _GAP, node.value))
    text = re.sub(r"\{(?:first|second)\}", _GAP, "\n".join(found))
    return re.sub(r"[^\S\n]+", " ", text)


def windows(text: str) -> list[str]:
    """Runs of three words of the literal parts of an entry; shorter parts as a whole."""
    runs = []
    for part in re.split(r"\{[\w:]+\}|</?\d+/?>", text):
        words = part.strip(" .,:;()").split(" ")
        last = max(1, len(words) - _WINDOW + 1)
        runs += [" ".join(words[at : at + _WINDOW]) for at in range(last)]
    return [run for run in runs if re.search(r"[A-Za-z]", run)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    cells = [x for x in fake_grid.mix_axes() if x["target_share"] in (0.0, 0.2, 1.0)]
    fake_grid.make_grid(folder, cells=cells, num_images=12)
    fake_grid.make_grid(folder, "longer", cells=cells, num_images=12, unfinished=1)
    return folder


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("code", LANGUAGES)
def test_every_fixed_text_of_the_pages_has_an_entry(code: str, template: str) -> None:
    entries = "\n".join(load_page_strings(code).content.texts)
    texts = set(static_texts(template))
    assert len(texts) > 30
    assert sorted(text for text in texts if text not in entries) == []


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_entry_still_has_a_source(code: str) -> None:
    known = source_texts()
    lost = []
    for text in load_page_strings(code).content.texts:
        runs = windows(text)
        is_short = len(" ".join(runs).split()) < _WINDOW or _COMPOSED.search(text)
        # Values inside a run of words, such as "does" or "do", are gaps in the source.
        if not is_short and sum(run in known for run in runs) < len(runs) / 3:
            lost.append(text)
    assert lost == []


@pytest.mark.slow
@pytest.mark.parametrize("code", LANGUAGES)
def test_a_report_is_translated(root: Path, code: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")  # a complete translation is no warning
    english = build.build_report("mix_ablation", root=root)
    before = english.read_bytes()
    path = build.build_report("mix_ablation", root=root, page_language=code)
    page = path.read_text(encoding="utf-8")
    assert path == english.with_name(f"report.{code}.html")
    assert english.read_bytes() == before
    assert f'<html lang="{code}">' in page
    done, total = map(int, re.search(r"(\d+) of (\d+) texts translated", caplog.text).groups())
    assert total > 200
    assert done >= 0.95 * total
    listed = english.with_name(f"report.{code}.untranslated.txt")
    assert listed.is_file() == (done < total)
    assert page.count("<script>") == 1
    assert "dataset.value ?? row.cells[key].textContent" in page
    assert " data-name" not in page


@pytest.mark.slow
def test_marks_are_all_that_a_page_to_be_translated_differs_in(root: Path) -> None:
    grid = load_grid(root, "mix_ablation", "embedded")
    view = view_of(grid)
    english, marked = (
        re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", build.render_page(grid, view, [], **options))
        for options in ({}, {"page_language": "eu"})
    )  # without times: a minute may end between both
    assert "data-name" not in english
    assert "translate=" not in english
    plain = marked.replace(' translate="no"', "").replace(" data-name", "")
    script = plain.index("<script>")
    assert plain[:script] == english[: english.index("<script>")]


@pytest.mark.slow
@pytest.mark.parametrize("code", LANGUAGES)
def test_a_comparison_is_translated(root: Path, code: str, tmp_path: Path) -> None:
    sides = load_sides(["mix_ablation-embedded", "longer-embedded"], root)
    path = build_comparison(sides, tmp_path, page_language=code)
    assert path.name == f"comparison.{code}.html"
    marked = render_comparison(sides, paired_scores(sides), page_language=code)
    page = translate_page(marked, load_page_strings(code))
    assert len(page.texts) > 60
    assert page.num_translated >= 0.95 * len(page.texts)


def test_an_unknown_language_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown page language 'xx'"):
        build.build_report("mix_ablation", root=tmp_path, page_language="xx")
    assert list(tmp_path.iterdir()) == []
